//! As many literals as a policy may look for, which take seconds to compile.

use portcullis_proto::Counter;
use portcullis_tests::{Tcp, World};

const ENDS: [(&str, &str); 2] = [
    ("192.0.2.10:50000", "198.51.100.1:9000"),
    ("[2001:db8::10]:50000", "[2001:db8::80]:9000"),
];

#[test]
fn each_of_ten_thousand_literals_is_found_across_segments_in_both_directions() {
    let literal = |number: u32| format!("document {number:05} is not to leave");
    let literals: Vec<String> = (0..10_000)
        .map(|number| format!("'{}'", literal(number)))
        .collect();
    let mut world = World::with_policy(&format!(
        "default = 'permit'\n[[rule]]\naction = 'block'\ncontent = [{}]",
        literals.join(", ")
    ));
    let mut port = 10_000;
    for (client, server) in ENDS {
        // The last one is none of them.
        for number in [0, 1, 4_321, 9_998, 9_999, 10_000] {
            for from_client in [true, false] {
                port += 1;
                let mut tcp = Tcp::new(&client.replace("50000", &port.to_string()), server);
                assert!(world.net.all_pass(&tcp.handshake()));
                let message = format!("... {} ...", literal(number));
                // Somewhere within it.
                let (first, second) = message.split_at(5 + port % 28);
                let segments = [first, second].map(|part| {
                    if from_client {
                        tcp.client_says(part.as_bytes())
                    } else {
                        tcp.server_says(part.as_bytes())
                    }
                });
                let fates = world.net.fates(&segments);
                assert_eq!(fates, [true, number == 10_000], "{first:?}, {second:?}");
            }
        }
    }
    assert_eq!(world.counter(Counter::ContentMatched), 20);
    world.end();
}
