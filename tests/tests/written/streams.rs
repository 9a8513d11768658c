//! Streams that rules change: what the ends get, byte for byte.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use portcullis_tests::sweep::Sample;

use super::reader::{Frame, RST, Segment, Stream, frames, streams};
use super::{Replayed, all_shared, own, replay};

/// Every `e` of what either side says is another text, which is longer.
const LONGER: &str = "
    default = 'permit'
    [[rule]]
    action = 'permit'
    protocol = 'tcp'
    replace = [{ find = 'e', with = '<E>' }]
";
/// A text of which segments end with the beginning is gone.
const SHORTER: &str = "
    default = 'permit'
    [[rule]]
    action = 'permit'
    protocol = 'tcp'
    replace = [{ find = \"\\r\\n\", with = '' }]
";

/// What is to come of a direction.
type Oracle = fn(&[u8]) -> Vec<u8>;

fn longer(data: &[u8]) -> Vec<u8> {
    data.iter()
        .flat_map(|&byte| {
            if byte == b'e' {
                b"<E>".to_vec()
            } else {
                vec![byte]
            }
        })
        .collect()
}

fn shorter(data: &[u8]) -> Vec<u8> {
    let mut rest = data;
    let mut out = Vec::new();
    while let Some((&first, behind)) = rest.split_first() {
        if let Some(behind) = rest.strip_prefix(b"\r\n") {
            rest = behind;
        } else {
            out.push(first);
            rest = behind;
        }
    }
    out
}

/// The streams of a replay before and after.
fn pairs(replayed: &Replayed) -> Vec<(Stream, Stream)> {
    let after = streams(&replayed.after);
    streams(&replayed.before)
        .into_iter()
        .map(|(ends, stream)| (stream, after.get(&ends).cloned().unwrap_or_default()))
        .collect()
}

/// Each direction has what `oracle` makes of it, and says nothing that a receiver finds odd; one with a gap in the capture up
/// to there. Returns how many bytes were compared, and how many directions were changed.
fn expect(name: &str, replayed: &Replayed, oracle: Oracle) -> (usize, usize) {
    let (mut compared, mut changed) = (0, 0);
    for (before, after) in pairs(replayed) {
        let expected = oracle(&before.data);
        let same = expected
            .iter()
            .zip(&after.data)
            .take_while(|(one, other)| one == other);
        let same = same.count();
        assert!(
            after.data == expected,
            "{name}: {} bytes instead of {}, other ones from {same} on: {:?} instead of {:?}",
            after.data.len(),
            expected.len(),
            String::from_utf8_lossy(after.data.get(same..).unwrap_or_default()),
            String::from_utf8_lossy(expected.get(same..).unwrap_or_default()),
        );
        if !before.has_gaps {
            assert!(!after.has_gaps, "{name}");
            assert_eq!(after.is_over, before.is_over, "{name}");
            // What was odd in the capture may be so still, and nothing else.
            assert!(after.oddities <= before.oddities, "{name}: {after:?}");
        }
        compared += expected.len();
        changed += usize::from(expected != before.data);
    }
    expect_sound(name, replayed);
    (compared, changed)
}

/// What was made has the right checksums, whatever the capture's packets have.
fn expect_sound(name: &str, replayed: &Replayed) {
    let before: BTreeSet<_> = replayed.before.iter().map(|frame| &frame.packet).collect();
    let made = replayed.after.iter().map(|frame| &frame.packet);
    for packet in made.filter(|packet| !before.contains(packet)) {
        assert!(
            Segment::of(packet).is_none_or(|segment| segment.is_sound),
            "{name}: {packet:x?}"
        );
    }
}

#[test]
fn changed_streams_are_whole_consistent_and_changed_at_each_place() {
    for cpus in [1, 3] {
        for (name, policy, oracle) in [
            ("longer", LONGER, longer as Oracle),
            ("shorter", SHORTER, shorter),
        ] {
            let replayed = replay(name, &own("web.pcap"), policy, cpus);
            let (compared, changed) = expect(name, &replayed, oracle);
            assert!(compared > 80_000, "{compared}");
            assert!(changed >= 5, "{changed}");
        }
    }
}

/// Further answers to open questions take a part of the captures, as of a sweep.
#[test]
fn real_captures_are_changed_at_each_place_and_nowhere_else() {
    let captures = all_shared();
    let taken: Vec<&PathBuf> = Sample::named()
        .calls(captures.len() as u64 + 1)
        .map(|number| &captures[usize::try_from(number).expect("few") - 1])
        .collect();
    let next = AtomicUsize::new(0);
    let (compared, changed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        while let Some(capture) = taken.get(next.fetch_add(1, Ordering::Relaxed)) {
            let name = capture.file_name().expect("a name").to_string_lossy();
            for (test, policy, oracle) in [
                ("all-longer", LONGER, longer as Oracle),
                ("all-shorter", SHORTER, shorter),
            ] {
                let (bytes, directions) = expect(&name, &replay(test, capture, policy, 1), oracle);
                println!("{name}, {test}: {bytes} bytes, {directions} directions changed");
                compared.fetch_add(bytes, Ordering::Relaxed);
                changed.fetch_add(directions, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
        work();
    });
    println!("{compared:?} bytes compared, {changed:?} directions changed");
    if taken.len() > 100 {
        let (compared, changed) = (compared.into_inner(), changed.into_inner());
        assert!(
            compared > 1_000_000 && changed > 100,
            "{compared} {changed}"
        );
    }
}

#[test]
fn headers_are_replaced_and_the_rest_of_each_request_is_conserved() {
    const POLICY: &str = "
        default = 'permit'
        [[rule]]
        action = 'permit'
        protocol = 'tcp'
        http_header = { User-Agent = 'none of yours' }
    ";
    let replayed = replay("headers", &own("web.pcap"), POLICY, 1);
    let (mut requests, mut conserved) = (0, 0);
    for (before, after) in pairs(&replayed) {
        let text = String::from_utf8_lossy(&before.data).into_owned();
        if !text.starts_with("GET ") {
            assert_eq!(after.data, before.data);
            conserved += 1;
            continue;
        }
        let expected: Vec<String> = text
            .split_inclusive("\r\n")
            .map(|line| match line.split_once(": ") {
                Some(("User-Agent", _)) => "User-Agent: none of yours\r\n".to_owned(),
                _ => line.to_owned(),
            })
            .collect();
        assert_eq!(String::from_utf8_lossy(&after.data), expected.concat());
        requests += 1;
    }
    assert!(requests >= 2 && conserved >= 6, "{requests} {conserved}");
}

fn resets(frames: &[Frame]) -> Vec<Segment> {
    let segments = frames.iter().filter_map(|frame| Segment::of(&frame.packet));
    segments
        .filter(|segment| segment.flags & RST != 0)
        .collect()
}

#[test]
fn of_a_stream_with_forbidden_contents_nothing_arrives_from_there_on_and_the_other_end_gets_a_reset()
 {
    for (test, place) in [("inline", "inline"), ("out-of-band", "out of band")] {
        let policy = format!(
            "default = 'permit'
             [[rule]]
             name = 'no curl'
             action = 'block'
             protocol = 'tcp'
             content = ['User-Agent: curl']
             inspect = '{place}'
            "
        );
        let replayed = replay(test, &own("web.pcap"), &policy, 1);
        assert!(resets(&replayed.before).is_empty());
        let resets = resets(&replayed.after);
        let mut blocked = 0;
        let after = streams(&replayed.after);
        for (ends, before) in streams(&replayed.before) {
            let stream = &after[&ends];
            assert!(before.data.starts_with(&stream.data), "{place}");
            let found = before
                .data
                .windows(16)
                .position(|text| text == b"User-Agent: curl");
            if let Some(at) = found {
                assert!(stream.data.len() <= at, "{place}: {}", stream.data.len());
                assert!(stream.is_reset && !stream.is_over, "{place}");
                blocked += 1;
            } else if !after[&(ends.1, ends.0)].is_reset {
                assert_eq!(stream.data, before.data, "{place}");
            }
            assert_eq!(stream.oddities, 0, "{place}");
        }
        expect_sound(test, &replayed);
        assert!(blocked >= 2);
        assert_eq!(resets.len(), blocked, "{place}");
    }
}

#[test]
fn what_waits_for_the_host_is_written_when_it_is_let_go() {
    let policy = "
        default = 'permit'
        [[rule]]
        name = 'a host'
        action = 'block'
        host = ['nowhere.example']
    ";
    let replayed = replay("host", &own("split-hello.pcap"), policy, 1);
    let before = streams(&replayed.before);
    assert_eq!(before.len(), 2);
    for (ends, after) in streams(&replayed.after) {
        assert_eq!(after.data, before[&ends].data);
        assert_eq!(after.oddities, 0);
    }
    expect_sound("host", &replayed);
    // The parts of the first message came one by one, and were let go as one.
    assert!(replayed.after.len() < replayed.before.len());
    let written = replayed.file;
    assert_eq!(frames(&written), replayed.after);
}

/// The file of a replay whose streams are changed.
pub(crate) fn changed(test: &str, capture: &Path) -> Replayed {
    replay(test, capture, LONGER, 1)
}
