//! What clients say first.

/// A vector with its length in front, in `width` bytes.
fn vector(width: usize, contents: &[u8]) -> Vec<u8> {
    [&contents.len().to_be_bytes()[8 - width..], contents].concat()
}

fn extension(kind: u16, contents: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector(2, contents)].concat()
}

/// A TLS 1.3 `ClientHello` for `name`, in one record; without a name it names no server.
#[must_use]
pub fn client_hello(name: Option<&str>) -> Vec<u8> {
    hello_with(name, Vec::new())
}

/// A `ClientHello` with an encrypted one in it, behind the outer name or before it (RFC 9849).
#[must_use]
pub fn encrypted_hello(name: &str, is_before: bool) -> Vec<u8> {
    let encrypted = extension(0xfe0d, &[3; 200]);
    if !is_before {
        return hello_with(Some(name), vec![encrypted]);
    }
    let mut hello = hello_with(None, vec![encrypted]);
    let entry = [&[0][..], &vector(2, name.as_bytes())].concat();
    let name = extension(0, &vector(2, &entry));
    // The lengths of the record, the message and the extensions.
    for place in [3, 7, 84] {
        let length = u16::from_be_bytes([hello[place], hello[place + 1]]);
        let length = length + u16::try_from(name.len()).expect("short");
        hello[place..place + 2].copy_from_slice(&length.to_be_bytes());
    }
    hello.extend(name);
    hello
}

fn hello_with(name: Option<&str>, more: Vec<Vec<u8>>) -> Vec<u8> {
    let mut extensions = vec![extension(43, &[2, 3, 4]), extension(10, &[0, 2, 0, 29])];
    if let Some(name) = name {
        let entry = [&[0][..], &vector(2, name.as_bytes())].concat();
        extensions.push(extension(0, &vector(2, &entry)));
    }
    extensions.push(extension(51, &[5; 36]));
    extensions.extend(more);
    let body = [
        &[3, 3][..],
        &[7; 32],
        &vector(1, &[9; 32]),
        &vector(2, &[0x13, 0x01, 0x13, 0x02]),
        &vector(1, &[0]),
        &vector(2, &extensions.concat()),
    ];
    let handshake = [&[1][..], &vector(3, &body.concat())].concat();
    [&[22, 3, 1][..], &vector(2, &handshake)].concat()
}

/// An HTTP/1.1 request to `host`.
#[must_use]
pub fn http_request(host: &str) -> Vec<u8> {
    format!("GET /index.html HTTP/1.1\r\nUser-Agent: test\r\nHost: {host}\r\nAccept: */*\r\n\r\n")
        .into_bytes()
}

/// A DNS query for the IPv4 address of `name`.
#[must_use]
pub fn dns_query(name: &str) -> Vec<u8> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).expect("a label"));
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

/// An answer without records to [`dns_query`].
#[must_use]
pub fn dns_answer(name: &str) -> Vec<u8> {
    let mut answer = dns_query(name);
    answer[2] |= 0x80;
    answer
}

/// A DNS message as it is sent over TCP.
#[must_use]
pub fn over_tcp(message: &[u8]) -> Vec<u8> {
    vector(2, message)
}
