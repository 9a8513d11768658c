//! Options as data: their names, their text and their covering array.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use wfp_engine::{Options, ParseOptionsError, Question};

#[test]
fn the_default_is_the_first_setting_of_every_question() {
    let default = Options::default();
    for question in Options::questions() {
        assert_eq!(
            question.setting(&default),
            Some(Question::DEFAULT),
            "{}",
            question.name()
        );
        assert!(question.settings().len() > 1, "{}", question.name());
        assert!(question.asks().ends_with('.'), "{}", question.asks());
        assert!(!question.source().is_empty());
    }
}

#[test]
fn names_are_unique_and_every_setting_can_be_chosen_and_told_from_the_others() {
    let names: BTreeSet<_> = Options::questions().iter().map(Question::name).collect();
    assert_eq!(names.len(), Options::questions().len());
    for question in Options::questions() {
        let settings: BTreeSet<_> = question.settings().iter().collect();
        assert_eq!(settings.len(), question.settings().len());
        for setting in 0..question.settings().len() {
            let options = Options::with(question, setting);
            assert_eq!(question.setting(&options), Some(setting));
            for other in Options::questions() {
                if other.name() != question.name() {
                    assert_eq!(other.setting(&options), Some(Question::DEFAULT));
                }
            }
        }
    }
}

#[test]
fn a_text_gives_the_options_that_wrote_it() {
    assert_eq!(Options::default().to_string(), "");
    assert_eq!("".parse(), Ok(Options::default()));
    for options in Options::covering_array() {
        assert_eq!(options.to_string().parse(), Ok(options));
    }
}

#[test]
fn a_wrong_text_is_refused_with_its_reason() {
    let parse = |text: &str| text.parse::<Options>().expect_err(text);
    assert_eq!(
        parse("filter_ties"),
        ParseOptionsError::NoSetting("filter_ties".to_owned())
    );
    assert_eq!(
        parse("tea=green"),
        ParseOptionsError::UnknownQuestion("tea".to_owned())
    );
    assert_eq!(
        parse("filter_ties=heaviest").to_string(),
        "`filter_ties` can't be `heaviest`, only oldest or newest"
    );
    assert_eq!(
        parse("filter_ties=newest, filter_ties=oldest"),
        ParseOptionsError::Twice("filter_ties")
    );
}

#[test]
fn every_pair_of_settings_occurs_in_one_row_of_the_covering_array() {
    let rows = Options::covering_array();
    assert_eq!(rows[0], Options::default());
    let covered: Vec<_> = Options::questions()
        .iter()
        .filter(|question| question.suits_a_system())
        .collect();
    for (at, first) in covered.iter().enumerate() {
        for second in &covered[at + 1..] {
            for a in 0..first.settings().len() {
                for b in 0..second.settings().len() {
                    assert!(
                        rows.iter()
                            .any(|row| first.setting(row) == Some(a)
                                && second.setting(row) == Some(b)),
                        "{}={} with {}={}",
                        first.name(),
                        first.settings()[a],
                        second.name(),
                        second.settings()[b],
                    );
                }
            }
        }
    }
    println!("{} rows for {} questions", rows.len(), covered.len());
    assert!(rows.len() <= 20, "{} rows", rows.len());
}

/// Set by `cargo xtask docs`: the file is written instead of compared.
const WRITE: &str = "PORTCULLIS_WRITE_DOCS";

const INTRODUCTION: &str = "\
# Open questions

What Microsoft's documentation of WFP leaves open, and what the simulation does about it. Each question is a setting of
`wfp_engine::Options`; the first setting is the default, the likeliest one. The settings can be given by name, as in
`stop_on_hard_block=yes,filter_ties=newest`. A driver should work under all of them: `Options::covering_array()` has a
few combinations in which every two settings of different questions meet.

`cargo xtask conformance` runs the conformance suite and the product's tests under them. Any other end-to-end test, such as those of
the example drivers and of drivers that are not ours, takes its settings from an environment variable:

```sh
PORTCULLIS_OPTIONS=injection_completion=inline,filter_ties=newest cargo xtask test examples::
```

`cargo xtask docs` writes this file from the table in `crates/wfp-engine/src/options`; do not edit it.

";

#[test]
fn the_open_questions_are_documented() {
    let mut text = INTRODUCTION.to_owned();
    text.push_str("| question | what is open | settings | page and rows |\n|---|---|---|---|\n");
    for question in Options::questions() {
        let settings: Vec<_> = question
            .settings()
            .iter()
            .map(|setting| format!("`{setting}`"))
            .collect();
        writeln!(
            text,
            "| `{}` | {} | {} | {} |",
            question.name(),
            question.asks(),
            settings.join(", "),
            question.source()
        )
        .unwrap();
    }
    writeln!(
        text,
        "\n{} questions; {} rows in the covering array.",
        Options::questions().len(),
        Options::covering_array().len()
    )
    .unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/open-questions.md");
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == text,
        "{} is out of date: run cargo xtask docs",
        file.display()
    );
}
