//! What rules do besides deciding: what is understood, and what is said about what isn't.

use portcullis_core::policy::RuleIndex;
use portcullis_core::{Action, Effect, PolicyView};
use portcullis_policy::{Options, compile, render};
use portcullis_proto::{EffectKind, EffectSet};

/// A policy with these lines in its only rule.
fn with_rule(action: &str, lines: &str) -> String {
    format!("default = \"block\"\n[[rule]]\naction = \"{action}\"\n{lines}\n")
}

/// Calls `see` with the rule's effects as the driver reads them.
fn effects(action: &str, lines: &str, see: impl FnOnce(&[Effect<'_>])) {
    let text = with_rule(action, lines);
    let compiled = compile(&text, &Options::default())
        .unwrap_or_else(|found| panic!("{}", render(&found, &text, false)));
    let view = PolicyView::validate(&compiled.blob).expect("valid");
    see(&view.effects(Some(RuleIndex(0))).collect::<Vec<_>>());
}

/// The only thing that is wrong with the rule, and the hint.
fn complaint(action: &str, lines: &str) -> (String, String) {
    let found = compile(&with_rule(action, lines), &Options::default()).expect_err("is refused");
    assert_eq!(found.len(), 1, "{lines}: {found:?}");
    (
        found[0].message.clone(),
        found[0].hint.clone().unwrap_or_default(),
    )
}

#[test]
fn a_rule_that_asks_says_for_how_long_and_what_happens_then() {
    effects("ask", "", |found| {
        let expected = Effect::Ask {
            milliseconds: 30_000,
            otherwise: Action::Block,
        };
        assert_eq!(found, [expected]);
    });
    effects(
        "ask",
        "ask_seconds = 5\nask_default = \"permit\"",
        |found| {
            let expected = Effect::Ask {
                milliseconds: 5_000,
                otherwise: Action::Permit,
            };
            assert_eq!(found, [expected]);
        },
    );
}

#[test]
fn connections_go_to_a_proxy_and_sockets_to_an_address_of_each_version() {
    let lines = "redirect = [\"127.0.0.1:8080\", \"[::1]:8081\"]\nbind = \"192.0.2.7\"";
    effects("permit", lines, |found| {
        let [bind, proxies @ ..] = found else {
            panic!("{found:?}")
        };
        assert_eq!(
            *bind,
            Effect::Bind {
                address: "192.0.2.7".parse().expect("an address")
            }
        );
        let ports = proxies.iter().map(|effect| match effect {
            Effect::Redirect { to, otherwise } => {
                assert_eq!(*otherwise, Action::Block);
                (to.address.is_ipv4(), to.port)
            }
            other => panic!("{other:?}"),
        });
        assert_eq!(ports.collect::<Vec<_>>(), [(true, 8080), (false, 8081)]);
    });
}

#[test]
fn connections_go_straight_without_a_proxy_where_a_rule_says_so() {
    let lines = "redirect_default = \"permit\"\nredirect = [\"127.0.0.1:8080\", \"[::1]:8080\"]";
    effects("permit", lines, |found| {
        assert_eq!(found.len(), 2);
        for effect in found {
            assert!(
                matches!(effect, Effect::Redirect { otherwise, .. } if *otherwise == Action::Permit),
                "{effect:?}"
            );
        }
    });
}

#[test]
fn bytes_and_headers_are_replaced_in_the_order_written() {
    let lines = "replace = [{ find = \"one\", with = \"two\", direction = \"received\" }, { find_hex = \"00 ff\", with = \"\" }]";
    effects("permit", lines, |found| {
        let [
            Effect::Replace {
                find: first, with, ..
            },
            Effect::Replace {
                find: second,
                with: nothing,
                ..
            },
        ] = found
        else {
            panic!("{found:?}")
        };
        assert_eq!((*first, *with), (&b"one"[..], &b"two"[..]));
        assert_eq!((*second, *nothing), (&[0, 0xFF][..], &[][..]));
    });
    let headers = "http_header = { Accept = \"*/*\", Cookie = false }";
    effects("permit", headers, |found| {
        let expected = [
            Effect::Header {
                name: b"Accept",
                value: Some(b"*/*"),
            },
            Effect::Header {
                name: b"Cookie",
                value: None,
            },
        ];
        assert_eq!(found, expected);
    });
}

#[test]
fn a_rate_has_a_burst_and_a_queue_that_follow_from_it() {
    let rate = |bytes_per_second, burst, queue, shared| Effect::Rate {
        bytes_per_second,
        burst,
        queue,
        shared,
    };
    let cases = [
        (
            "rate = \"8 Mbit/s\"",
            rate(1_000_000, 125_000, 250_000, Some(0)),
        ),
        (
            "rate = \"1 kB/s\"\nrate_per = \"rule\"",
            rate(1_000, 3_000, 64_000, Some(0)),
        ),
        (
            "rate = \"1 MiB/s\"\nburst = \"2 KiB\"\nqueue = \"0 B\"\nrate_per = \"flow\"",
            rate(1 << 20, 2_048, 0, None),
        ),
    ];
    for (lines, expected) in cases {
        effects("permit", lines, |found| assert_eq!(found, [expected]));
    }
}

#[test]
fn packets_are_late_lost_marked_and_sent_elsewhere() {
    let lines = "delay = \"50 ms\"\njitter = \"500 us\"\nloss = \"0.5 %\"\ndscp = 46\nttl = 3\ntranslate = \":53\"\nmirror = true";
    effects("permit", lines, |found| {
        let all = [
            Effect::Delay {
                microseconds: 50_000,
                jitter: 500,
            },
            Effect::Loss { per_million: 5_000 },
            Effect::Dscp(46),
            Effect::HopLimit(3),
            Effect::Translate {
                address: None,
                port: Some(53),
            },
            Effect::Mirror,
        ];
        assert_eq!(found.len(), all.len());
        assert!(all.iter().all(|effect| found.contains(effect)), "{found:?}");
    });
    effects("permit", "mirror = false\ndelay = \"0 s\"", |found| {
        assert_eq!(found, []);
    });
}

#[test]
fn contents_are_looked_for_out_of_band_in_a_rule_that_blocks() {
    let lines = "content = \"secret\"\ninspect = \"out of band\"";
    effects("block", lines, |found| {
        assert_eq!(found, [Effect::OutOfBand]);
    });
    let inline = "content = \"secret\"\ninspect = \"inline\"";
    effects("block", inline, |found| assert_eq!(found, []));
}

#[test]
fn the_policy_knows_which_effects_it_has() {
    let text = "default = \"permit\"\n[[rule]]\naction = \"permit\"\ndscp = 1\n[[rule]]\naction = \"permit\"\nremote_port = 1\nmirror = true\n";
    let blob = compile(text, &Options::default()).expect("compiles").blob;
    assert_eq!(
        PolicyView::validate(&blob).expect("valid").effect_set(),
        EffectSet::of(&[EffectKind::Dscp, EffectKind::Mirror])
    );
}

#[test]
fn what_contradicts_the_rule_is_refused() {
    let cases = [
        ("block", "dscp = 1", "`dscp` is for rules that let through"),
        (
            "permit",
            "ask_seconds = 1",
            "`ask_seconds` is for rules that ask",
        ),
        (
            "ask",
            "host = \"example.com\"",
            "a rule that asks has no hosts",
        ),
        ("permit", "burst = \"1 kB\"", "`burst` goes with a rate"),
        (
            "permit",
            "rate_per = \"flow\"",
            "`rate_per` goes with a rate",
        ),
        (
            "permit",
            "rate = \"1 MB/s\"\nrate_per = \"user\"",
            "no rate is per \"user\"",
        ),
        (
            "permit",
            "delay = \"9 s\"\njitter = \"2 s\"",
            "the delay and its jitter are more than 10 s together",
        ),
        (
            "permit",
            "direction = \"inbound\"\nredirect = \"127.0.0.1:1\"",
            "`redirect` is for what this machine begins",
        ),
        (
            "permit",
            "host = \"example.com\"\nredirect = \"127.0.0.1:1\"",
            "`redirect` goes with no host",
        ),
        (
            "permit",
            "redirect = [\"127.0.0.1:1\", \"127.0.0.1:2\"]",
            "`redirect` has two addresses of one IP version",
        ),
        (
            "permit",
            "protocol = \"udp\"\nhttp_header = { Accept = false }",
            "`http_header` is for TCP only",
        ),
        (
            "block",
            "inspect = \"out of band\"",
            "there is nothing to inspect",
        ),
    ];
    for (action, lines, expected) in cases {
        assert_eq!(complaint(action, lines).0, expected);
    }
}

#[test]
fn values_that_cannot_be_are_refused_with_a_hint() {
    let cases = [
        ("rate = \"8\"", "write a unit"),
        ("rate = \"8 Mbps\"", "did you mean \"mbit/s\"?"),
        ("rate = \"8 mbit\"", "mbit/s"),
        ("loss = \"200 %\"", "from 0.001 % to 100 %"),
        ("delay = \"1 min\"", "\"50 ms\""),
        ("dscp = 64", "from 0 to 63"),
        ("ttl = 0", "from 1 to 255"),
        ("redirect = \"192.0.2.1:80\"", "a program of this machine"),
        ("redirect = \"127.0.0.1\"", "with its port"),
        ("bind = \"eth0\"", "a network interface"),
        ("translate = \"example.com:53\"", "\"198.51.100.7:53\""),
        (
            "http_header = { Content-Length = \"1\" }",
            "where a request ends",
        ),
        ("replace = [{ find = \"x\" }]", "with = \"\""),
        (
            "replace = [{ find = \"x\", with = \"y\", way = \"sent\" }]",
            "`direction`",
        ),
        ("rates = \"1 MB/s\"", "did you mean `rate`?"),
    ];
    for (lines, expected) in cases {
        let (message, hint) = complaint("permit", lines);
        assert!(hint.contains(expected), "{lines}: {message}: {hint}");
    }
}

#[test]
fn the_default_decides_and_does_not_ask() {
    let found = compile("default = \"ask\"", &Options::default()).expect_err("is refused");
    assert_eq!(found[0].message, "the default does not ask");
}

#[test]
fn a_rule_whose_keys_about_proxies_binds_and_children_contradict_it_is_refused() {
    for (lines, message) in [
        ("children = true", "`children` are those of an application"),
        (
            "redirect_default = \"permit\"",
            "`redirect_default` goes with a proxy",
        ),
        (
            "redirect = \"127.0.0.1:1\"\nredirect_default = \"ask\"",
            "nobody is asked about a proxy that is not there",
        ),
        (
            "bind = \"192.0.2.7\"\nremote_port = 443",
            "`bind` goes with no condition on the remote side",
        ),
    ] {
        assert_eq!(complaint("permit", lines).0, message);
    }
}
