//! Applications: from a path as people write it to the path that the kernel has.

use super::Issue;
use crate::model::ApplicationPattern;

/// Variables that people write in paths, and what they usually stand for.
const VARIABLES: [(&str, &str); 6] = [
    ("%systemroot%", r"C:\Windows"),
    ("%windir%", r"C:\Windows"),
    ("%programfiles%", r"C:\Program Files"),
    ("%programfiles(x86)%", r"C:\Program Files (x86)"),
    ("%programdata%", r"C:\ProgramData"),
    ("%systemdrive%", "C:"),
];

pub(super) fn pattern(text: &str) -> Result<ApplicationPattern, Issue> {
    if text.is_empty() {
        return Err(Issue::new("the path is empty"));
    }
    if text.contains('\0') {
        return Err(Issue::new("a path has no NUL character"));
    }
    if let Some(expanded) = expand(text) {
        return Err(
            Issue::new("variables are not expanded").hint(expanded.map_or_else(
                || "write the path out".to_owned(),
                |path| format!("write the path out: '{path}'"),
            )),
        );
    }
    if text.contains('/') {
        let hint = format!("write '{}'", text.replace('/', "\\"));
        return Err(Issue::new("a path has backslashes").hint(hint));
    }
    let path = text
        .strip_prefix(r"\\?\")
        .or_else(|| text.strip_prefix(r"\??\"))
        .unwrap_or(text);
    if let [drive, b':', rest @ ..] = path.as_bytes()
        && (drive.is_ascii_alphabetic() || matches!(drive, b'?' | b'*'))
    {
        return match rest {
            [b'\\', ..] => Ok(ApplicationPattern::new(&path[2..], true)),
            _ => Err(Issue::new("the drive's letter is not followed by a path")
                .hint(format!("write '{}:\\…'", char::from(*drive)))),
        };
    }
    if let Some(share) = path
        .strip_prefix(r"\\")
        .or_else(|| path.strip_prefix(r"UNC\"))
    {
        return Ok(ApplicationPattern::new(
            &format!(r"\device\mup\{share}"),
            false,
        ));
    }
    let is_rooted = path.starts_with('\\') || path.starts_with('*');
    if !is_rooted && !path.eq_ignore_ascii_case("system") {
        return Err(
            Issue::new("the whole path is compared, and none begins like this")
                .hint(format!(r"write '*\{path}' for any directory")),
        );
    }
    if path.starts_with('\\') && !path.to_lowercase().starts_with(r"\device\") {
        return Err(Issue::new("the path names no volume")
            .hint(format!("write 'C:{path}' for any local volume")));
    }
    Ok(ApplicationPattern::new(path, false))
}

/// Whether there is a variable in the text, and what the text becomes without it.
#[allow(clippy::option_option, reason = "a variable may be there and unknown")]
fn expand(text: &str) -> Option<Option<String>> {
    let start = text.find('%')?;
    let end = start + 1 + text.get(start + 1..)?.find('%')?;
    let variable = text.get(start..=end)?.to_lowercase();
    let known = VARIABLES.iter().find(|(name, _)| *name == variable);
    Some(known.map(|(_, path)| format!("{}{path}{}", &text[..start], &text[end + 1..])))
}
