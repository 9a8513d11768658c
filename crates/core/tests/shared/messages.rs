//! First messages of protocols, made by hand.

/// A vector with its length in front, in `width` bytes.
fn vector(width: usize, contents: &[u8]) -> Vec<u8> {
    [&contents.len().to_be_bytes()[8 - width..], contents].concat()
}

/// A TLS extension.
pub fn extension(kind: u16, contents: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector(2, contents)].concat()
}

/// The extension that names the server.
pub fn server_name(name: &[u8]) -> Vec<u8> {
    extension(0, &vector(2, &[&[0][..], &vector(2, name)].concat()))
}

/// A `ClientHello` handshake message with these extensions.
pub fn client_hello(extensions: &[Vec<u8>]) -> Vec<u8> {
    let body = [
        &[3, 3][..],
        &[7; 32],
        &vector(1, &[9; 32]),
        &vector(2, &[0x13, 0x01, 0x13, 0x02]),
        &vector(1, &[0]),
        &vector(2, &extensions.concat()),
    ];
    [&[1][..], &vector(3, &body.concat())].concat()
}

/// A handshake message in records of at most `size` bytes each.
pub fn records(handshake: &[u8], size: usize) -> Vec<u8> {
    handshake
        .chunks(size)
        .flat_map(|piece| [&[22, 3, 1][..], &vector(2, piece)].concat())
        .collect()
}

/// A browser's greeting: a key share of post-quantum size before and after the name.
pub fn tls(name: &str) -> Vec<u8> {
    let key_share = extension(51, &[5; 1300]);
    let versions = extension(43, &[2, 3, 4]);
    records(
        &client_hello(&[versions, server_name(name.as_bytes()), key_share]),
        16384,
    )
}

/// A DNS query for a name.
pub fn dns(name: &str) -> Vec<u8> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).expect("a label"));
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

/// The same on TCP.
pub fn dns_over_tcp(name: &str) -> Vec<u8> {
    vector(2, &dns(name))
}

/// An HTTP/1 request.
pub fn http(host: &str) -> Vec<u8> {
    format!("GET /index.html HTTP/1.1\r\nUser-Agent: test\r\nHost: {host}\r\nAccept: */*\r\n\r\n")
        .into_bytes()
}
