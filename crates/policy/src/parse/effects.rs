//! What a rule does besides deciding: its keys, and how they go together.

use super::{Issue, Reader, Value, effect_value, value, wrong_type};
use crate::effect::Effect;
use crate::model::Rule;
use portcullis_proto::effect::{MAX_QUEUE, MAX_RATE};
use portcullis_proto::policy::{Action, Direction};
use std::net::IpAddr;
use std::ops::Range;
use toml::de::DeValue;

/// What is written of a rule's effects before it is known how it goes together.
#[derive(Default)]
pub(super) struct Written {
    effects: Vec<Effect>,
    ask_seconds: Option<u64>,
    ask_default: Option<Action>,
    redirect_default: Option<Action>,
    rate: Option<u64>,
    burst: Option<u64>,
    queue: Option<u64>,
    rate_per_flow: Option<bool>,
    delay: Option<u64>,
    jitter: Option<u64>,
    /// Each key with its place.
    keys: Vec<(&'static str, Range<usize>)>,
}

impl Written {
    fn place(&self, name: &str) -> Option<Range<usize>> {
        let mut keys = self.keys.iter().filter(|(key, _)| *key == name);
        keys.next().map(|(_, place)| place.clone())
    }

    /// The first of these keys that is written.
    fn first(&self, names: &[&'static str]) -> Option<(&'static str, Range<usize>)> {
        let mut keys = self.keys.iter().filter(|(key, _)| names.contains(key));
        keys.next().cloned()
    }
}

/// Seconds that a question is held for, unless written.
const ASK_SECONDS: u64 = 30;
/// Least burst, unless written: two full segments.
const LEAST_BURST: u64 = 3_000;
/// Least queue, unless written.
const LEAST_QUEUE: u64 = 64_000;

impl Reader<'_> {
    /// Reads the value of a key that says what a rule does besides deciding. `false`: it is no such key.
    pub(super) fn effect(
        &mut self,
        written: &mut Written,
        name: &'static str,
        place: Range<usize>,
        value: &Value<'_>,
    ) -> bool {
        match name {
            "ask_seconds" => {
                written.ask_seconds = self.number(value, name, effect_value::ask_seconds);
            }
            "ask_default" => {
                written.ask_default = self.one(value, name, effect_value::ask_default);
            }
            "redirect" => {
                for proxy in self.many(value, name, effect_value::proxy) {
                    written.effects.push(Effect::Redirect {
                        address: proxy.ip(),
                        port: proxy.port(),
                        otherwise: Action::Block,
                    });
                }
            }
            "redirect_default" => {
                written.redirect_default = self.one(value, name, effect_value::redirect_default);
            }
            "bind" => {
                let addresses = self.many(value, name, effect_value::bind);
                written
                    .effects
                    .extend(addresses.into_iter().map(Effect::Bind));
            }
            "replace" => self.replacements(written, value),
            "http_header" => self.headers(written, value),
            "dscp" | "ttl" => {
                let (least, most) = if name == "dscp" {
                    (0, 63)
                } else {
                    (1, u8::MAX)
                };
                let number = self.number(value, name, |number| {
                    effect_value::header_field(name, number, least, most)
                });
                let effect = if name == "dscp" {
                    Effect::Dscp
                } else {
                    Effect::HopLimit
                };
                written.effects.extend(number.map(effect));
            }
            "translate" => {
                let side = self.one(value, name, effect_value::translate);
                written
                    .effects
                    .extend(side.map(|(address, port)| Effect::Translate { address, port }));
            }
            "rate" => written.rate = self.one(value, name, effect_value::rate),
            "burst" => written.burst = self.one(value, name, effect_value::burst),
            "queue" => written.queue = self.one(value, name, effect_value::queue),
            "rate_per" => {
                written.rate_per_flow = self.one(value, name, |text| match text {
                    "rule" => Ok(false),
                    "flow" => Ok(true),
                    other => Err(Issue::new(format!("no rate is per \"{other}\"")).hint(
                        "it is \"rule\", for all its connections together, or \"flow\", for each",
                    )),
                });
            }
            "delay" => written.delay = self.one(value, name, effect_value::time),
            "jitter" => written.jitter = self.one(value, name, effect_value::time),
            "loss" => {
                let loss = self.one(value, name, effect_value::loss);
                written.effects.extend(loss.map(Effect::Loss));
            }
            "mirror" => match value.get_ref() {
                DeValue::Boolean(true) => written.effects.push(Effect::Mirror),
                DeValue::Boolean(false) => return true,
                other => self.report(value.span(), wrong_type(name, "`true` or `false`", other)),
            },
            "inspect" => {
                let way = self.one(value, name, |text| match text {
                    "inline" => Ok(None),
                    "out of band" => Ok(Some(Effect::OutOfBand)),
                    other => Err(Issue::new(format!("nothing is inspected \"{other}\""))
                        .hint("it is \"inline\" or \"out of band\"")),
                });
                written.effects.extend(way.flatten());
            }
            _ => return false,
        }
        written.keys.push((name, place));
        true
    }

    /// A value that is a number.
    fn number<T>(
        &mut self,
        value: &Value<'_>,
        name: &str,
        read: impl FnOnce(u64) -> Result<T, Issue>,
    ) -> Option<T> {
        let result = match value.get_ref() {
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix())
                .map_err(|_| Issue::new(format!("`{name}` is not a number from 0")))
                .and_then(read),
            other => Err(wrong_type(name, "a number", other)),
        };
        result
            .map_err(|issue| self.report(value.span(), issue))
            .ok()
    }

    fn replacements(&mut self, written: &mut Written, value: &Value<'_>) {
        let list: Vec<&Value<'_>> = match value.get_ref() {
            DeValue::Array(list) => list.iter().collect(),
            _ => vec![value],
        };
        for element in list {
            let DeValue::Table(table) = element.get_ref() else {
                let issue = Issue::new("this says not what is replaced by what")
                    .hint("write `replace = [{ find = \"…\", with = \"…\" }]`");
                self.report(element.span(), issue);
                continue;
            };
            let (mut find, mut with) = (None, None);
            let (mut sent, mut received) = (true, true);
            for (key, value) in table {
                match key.get_ref().as_ref() {
                    "find" => find = self.one(value, "find", value::content),
                    "find_hex" => find = self.one(value, "find_hex", value::content_hex),
                    "with" => {
                        with = self.one(value, "with", |text| {
                            effect_value::replacement(text.as_bytes().to_vec())
                        });
                    }
                    "with_hex" => {
                        with = self.one(value, "with_hex", |text| match text {
                            "" => Ok(Vec::new()),
                            digits => value::content_hex(digits),
                        });
                    }
                    "direction" => {
                        let way = self.one(value, "direction", |text| match text {
                            "sent" => Ok((true, false)),
                            "received" => Ok((false, true)),
                            other => Err(Issue::new(format!("data is not \"{other}\""))
                                .hint("it is \"sent\" or \"received\"; leave it out for both")),
                        });
                        (sent, received) = way.unwrap_or((sent, received));
                    }
                    other => {
                        let issue = Issue::new(format!("a replacement has no `{other}`")).hint(
                            "it has `find` or `find_hex`, `with` or `with_hex`, and `direction`",
                        );
                        self.report(key.span(), issue);
                    }
                }
            }
            match (find, with) {
                (Some(find), Some(with)) => written.effects.push(Effect::Replace {
                    sent,
                    received,
                    find,
                    with,
                }),
                _ if table.len() < 2 => {
                    let issue = Issue::new("a replacement needs `find` and `with`")
                        .hint("to take bytes out, write `with = \"\"`");
                    self.report(element.span(), issue);
                }
                _ => {}
            }
        }
    }

    fn headers(&mut self, written: &mut Written, value: &Value<'_>) {
        let DeValue::Table(table) = value.get_ref() else {
            let issue = Issue::new("this says not which header is given which value")
                .hint("write `http_header = { User-Agent = \"…\" }`");
            return self.report(value.span(), issue);
        };
        for (key, value) in table {
            let name = effect_value::header_name(key.get_ref())
                .map_err(|issue| self.report(key.span(), issue));
            let value = match value.get_ref() {
                DeValue::Boolean(false) => Some(None),
                _ => self
                    .one(value, "a header's value", effect_value::header_value)
                    .map(Some),
            };
            if let (Ok(name), Some(value)) = (name, value) {
                written.effects.push(Effect::Header { name, value });
            }
        }
    }

    /// Puts a rule's effects together, and says where they contradict the rule.
    pub(super) fn effects(&mut self, mut written: Written, rule: &mut Rule, action: Range<usize>) {
        self.shape(&mut written);
        self.proxy(&mut written);
        if rule.action == Action::Ask {
            written.effects.insert(
                0,
                Effect::Ask {
                    milliseconds: written.ask_seconds.unwrap_or(ASK_SECONDS * 1_000),
                    otherwise: written.ask_default.unwrap_or(Action::Block),
                },
            );
            if !rule.hosts.is_empty() {
                let issue = Issue::new("a rule that asks has no hosts").hint(
                    "the question comes before the first data, and so before the host is known",
                );
                self.report(action, issue);
            }
        } else if let Some((name, place)) = written.first(&["ask_seconds", "ask_default"]) {
            let issue = Issue::new(format!("`{name}` is for rules that ask"))
                .hint("write `action = \"ask\"`, or leave it out");
            self.report(place, issue);
        }
        let is_out_of_band = written.effects.contains(&Effect::OutOfBand);
        if rule.action == Action::Block {
            let changes = written.keys.iter().find(|(name, _)| {
                !matches!(
                    *name,
                    "inspect" | "ask_seconds" | "ask_default" | "redirect_default"
                )
            });
            if let Some((name, place)) = changes.cloned() {
                let issue = Issue::new(format!("`{name}` is for rules that let through"))
                    .hint("write `action = \"permit\"`, or leave it out");
                self.report(place, issue);
            }
        }
        if let Some(place) = written.place("inspect")
            && rule.contents.is_empty()
            && is_out_of_band
        {
            let issue = Issue::new("there is nothing to inspect")
                .hint("write what is looked for as `content`");
            self.report(place, issue);
        }
        self.reach(&written, rule);
        rule.effects = written.effects;
    }

    /// What happens while there is no proxy.
    fn proxy(&mut self, written: &mut Written) {
        let Some(default) = written.redirect_default else {
            return;
        };
        if written.place("redirect").is_none() {
            let issue = Issue::new("`redirect_default` goes with a proxy")
                .hint("write where it listens as `redirect`, or leave it out");
            let place = written.place("redirect_default").unwrap_or(0..0);
            self.report(place, issue);
        }
        for effect in &mut written.effects {
            if let Effect::Redirect { otherwise, .. } = effect {
                *otherwise = default;
            }
        }
    }

    /// How fast, how late.
    fn shape(&mut self, written: &mut Written) {
        if let Some(rate) = written.rate {
            written.effects.push(Effect::Rate {
                bytes_per_second: rate,
                burst: written
                    .burst
                    .unwrap_or_else(|| (rate / 8).clamp(LEAST_BURST, MAX_RATE)),
                queue: written
                    .queue
                    .unwrap_or_else(|| (rate / 4).clamp(LEAST_QUEUE, MAX_QUEUE)),
                shared: !written.rate_per_flow.unwrap_or(false),
            });
        } else if let Some((name, place)) = written.first(&["burst", "queue", "rate_per"])
            && written.place("rate").is_none()
        {
            let issue = Issue::new(format!("`{name}` goes with a rate"))
                .hint("write `rate = \"8 Mbit/s\"`, or leave it out");
            self.report(place, issue);
        }
        let (delay, jitter) = (written.delay.unwrap_or(0), written.jitter.unwrap_or(0));
        match effect_value::delay(delay, jitter) {
            Ok(true) => written.effects.push(Effect::Delay {
                microseconds: delay,
                jitter,
            }),
            Ok(false) => {}
            Err(issue) => {
                let place = written.place("jitter").unwrap_or(0..0);
                self.report(place, issue);
            }
        }
    }

    /// Whether the rule is for connections that its effects can be for.
    fn reach(&mut self, written: &Written, rule: &Rule) {
        if let Some((name, place)) = written.first(&["redirect", "bind"]) {
            if rule.direction == Some(Direction::Inbound) {
                let issue = Issue::new(format!("`{name}` is for what this machine begins"))
                    .hint("write `direction = \"outbound\"`, or leave it out");
                self.report(place.clone(), issue);
            }
            if !rule.hosts.is_empty() {
                let issue = Issue::new(format!("`{name}` goes with no host"))
                    .hint("it happens before the first data, and so before the host is known");
                self.report(place, issue);
            }
        }
        if let Some(place) = written.place("bind")
            && !rule.knows_a_bind()
            && rule.direction != Some(Direction::Inbound)
            && rule.hosts.is_empty()
        {
            let (what, which) = if rule.interfaces.is_any() {
                ("remote side", "whom")
            } else {
                ("interface", "which interface")
            };
            let issue = Issue::new(format!("`bind` goes with no condition on the {what}")).hint(
                format!("a socket is bound before it is known {which} it is for"),
            );
            self.report(place, issue);
        }
        let of = |tcp_only: bool| {
            rule.protocols.is_any()
                || rule.protocols.meets((6, 6))
                || (!tcp_only && rule.protocols.meets((17, 17)))
        };
        for (names, tcp_only, what) in [
            (&["redirect"][..], false, "TCP and UDP"),
            (&["replace", "http_header"][..], true, "TCP"),
        ] {
            if let Some((name, place)) = written.first(names)
                && !of(tcp_only)
            {
                let issue = Issue::new(format!("`{name}` is for {what} only"))
                    .hint("leave other protocols to a rule of their own");
                self.report(place, issue);
            }
        }
        for (name, addresses) in [
            (
                "redirect",
                addresses(&written.effects, |effect| match effect {
                    Effect::Redirect { address, .. } => Some(*address),
                    _ => None,
                }),
            ),
            (
                "bind",
                addresses(&written.effects, |effect| match effect {
                    Effect::Bind(address) => Some(*address),
                    _ => None,
                }),
            ),
        ] {
            let v4 = addresses.iter().filter(|address| address.is_ipv4()).count();
            if v4 > 1 || addresses.len() - v4 > 1 {
                let issue = Issue::new(format!("`{name}` has two addresses of one IP version"))
                    .hint("write one for IPv4, and one for IPv6");
                self.report(written.place(name).unwrap_or(0..0), issue);
            }
        }
    }
}

fn addresses(effects: &[Effect], of: impl Fn(&Effect) -> Option<IpAddr>) -> Vec<IpAddr> {
    effects.iter().filter_map(of).collect()
}
