//! `printf` as the kernel's debug output has it.
//!
//! <https://learn.microsoft.com/cpp/c-runtime-library/format-specification-syntax-printf-and-wprintf-functions>, with
//! `%Z` and `%wZ` for counted strings. Floating point is not supported, as in the kernel.

use crate::access::In;
use crate::nt::rtl_string::UnicodeString;

/// `DbgPrint` prints at most this many bytes.
const LONGEST: usize = 512;

/// The bytes before the NUL; empty for a null pointer.
pub(super) fn bytes_until_nul(text: In<u8>) -> Vec<u8> {
    (0..LONGEST)
        .map_while(|at| text.at(at).filter(|&byte| byte != 0))
        .collect()
}

/// What stands between `%` and the letter.
#[derive(Debug, Default, Clone, Copy)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "they are the flags of a specification"
)]
struct Specification {
    left: bool,
    zeros: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
    size: Size,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Size {
    Byte,
    Short,
    #[default]
    Int,
    Wide,
    Long,
}

/// Arguments, eight bytes each, taken in turn.
struct Arguments {
    list: In<u64>,
    next: usize,
}

impl Arguments {
    fn take(&mut self) -> u64 {
        self.next += 1;
        self.list.at(self.next - 1).unwrap_or(0)
    }
}

/// `template` with its specifications replaced.
pub(super) fn format(template: &[u8], arguments: In<u64>) -> String {
    let mut arguments = Arguments {
        list: arguments,
        next: 0,
    };
    let mut out = String::new();
    let mut rest = template;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            out.push(char::from(byte));
            continue;
        }
        let specification = parse(&mut rest, &mut arguments);
        let Some((&letter, after)) = rest.split_first() else {
            break;
        };
        rest = after;
        match convert(specification, letter, &mut arguments) {
            Some(text) => out.push_str(&text),
            None => out.push(char::from(letter)),
        }
    }
    out.truncate(
        (0..=LONGEST.min(out.len()))
            .rev()
            .find(|&at| out.is_char_boundary(at))
            .unwrap_or(0),
    );
    out
}

fn parse(rest: &mut &[u8], arguments: &mut Arguments) -> Specification {
    let mut specification = Specification::default();
    while let Some((&byte, after)) = rest.split_first() {
        match byte {
            b'-' => specification.left = true,
            b'0' => specification.zeros = true,
            b'+' => specification.plus = true,
            b' ' => specification.space = true,
            b'#' => specification.alternate = true,
            _ => break,
        }
        *rest = after;
    }
    specification.width = number(rest, arguments).unwrap_or(0).min(LONGEST);
    if let Some(after) = rest.strip_prefix(b".") {
        *rest = after;
        specification.precision = Some(number(rest, arguments).unwrap_or(0).min(LONGEST));
    }
    for (prefix, size) in [
        (&b"I64"[..], Size::Long),
        (b"I32", Size::Int),
        (b"ll", Size::Long),
        (b"l", Size::Wide),
        (b"hh", Size::Byte),
        (b"h", Size::Short),
        (b"I", Size::Long),
        (b"z", Size::Long),
        (b"t", Size::Long),
        (b"j", Size::Long),
        (b"w", Size::Wide),
    ] {
        if let Some(after) = rest.strip_prefix(prefix) {
            *rest = after;
            specification.size = size;
            break;
        }
    }
    specification
}

/// A number or `*`.
fn number(rest: &mut &[u8], arguments: &mut Arguments) -> Option<usize> {
    if let Some(after) = rest.strip_prefix(b"*") {
        *rest = after;
        let [low, high, ..] = arguments.take().to_le_bytes();
        return Some(usize::from(u16::from_le_bytes([low, high])));
    }
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (text, after) = rest.split_at(digits);
    *rest = after;
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `None` for a letter that is none, which is printed as it is.
fn convert(specification: Specification, letter: u8, arguments: &mut Arguments) -> Option<String> {
    let wide = specification.size == Size::Wide;
    Some(match letter {
        b'd' | b'i' => {
            let value = signed(arguments.take(), specification.size);
            let sign = match value {
                ..0 => "-",
                _ if specification.plus => "+",
                _ if specification.space => " ",
                _ => "",
            };
            pad_number(specification, sign, &value.unsigned_abs().to_string())
        }
        b'u' => pad_number(
            specification,
            "",
            &unsigned(arguments.take(), specification.size).to_string(),
        ),
        b'o' => pad_number(
            specification,
            "",
            &format!("{:o}", unsigned(arguments.take(), specification.size)),
        ),
        b'x' | b'X' => {
            let value = unsigned(arguments.take(), specification.size);
            let digits = if letter == b'x' {
                format!("{value:x}")
            } else {
                format!("{value:X}")
            };
            let prefix = match (specification.alternate && value != 0, letter) {
                (true, b'x') => "0x",
                (true, _) => "0X",
                _ => "",
            };
            pad_number(specification, prefix, &digits)
        }
        b'p' => pad(specification, format!("{:016X}", arguments.take())),
        b'c' | b'C' => {
            let [low, high, ..] = arguments.take().to_le_bytes();
            let unit = if (letter == b'C') ^ wide {
                u16::from_le_bytes([low, high])
            } else {
                u16::from(low)
            };
            pad(
                specification,
                char::from_u32(u32::from(unit)).unwrap_or('?').to_string(),
            )
        }
        b's' | b'S' => {
            let at = arguments.take();
            let text = if (letter == b'S') ^ wide {
                utf16(at)
            } else {
                ansi(at)
            };
            pad(specification, cut(specification, text))
        }
        b'Z' => {
            let string: In<UnicodeString> = In::member(arguments.take());
            let text = string.get().map_or_else(
                || "(null)".to_owned(),
                |string| {
                    if wide {
                        string.text()
                    } else {
                        string.ansi_text()
                    }
                },
            );
            pad(specification, cut(specification, text))
        }
        b'%' => "%".to_owned(),
        _ => return None,
    })
}

fn ansi(at: u64) -> String {
    if at == 0 {
        return "(null)".to_owned();
    }
    String::from_utf8_lossy(&bytes_until_nul(In::member(at))).into_owned()
}

fn utf16(at: u64) -> String {
    let text: In<u16> = In::member(at);
    text.string().unwrap_or_else(|| "(null)".to_owned())
}

/// The value as a signed number of its size; `long` is 32 bits on Windows.
const fn signed(value: u64, size: Size) -> i64 {
    let unused = match size {
        Size::Byte => 56,
        Size::Short => 48,
        Size::Int | Size::Wide => 32,
        Size::Long => 0,
    };
    (value << unused).cast_signed() >> unused
}

const fn unsigned(value: u64, size: Size) -> u64 {
    match size {
        Size::Byte => value & 0xff,
        Size::Short => value & 0xffff,
        Size::Int | Size::Wide => value & 0xffff_ffff,
        Size::Long => value,
    }
}

fn cut(specification: Specification, text: String) -> String {
    match specification.precision {
        Some(longest) => text.chars().take(longest).collect(),
        None => text,
    }
}

fn pad(specification: Specification, text: String) -> String {
    let missing = specification.width.saturating_sub(text.chars().count());
    if specification.left {
        text + &" ".repeat(missing)
    } else {
        " ".repeat(missing) + &text
    }
}

fn pad_number(specification: Specification, prefix: &str, digits: &str) -> String {
    let least = match specification.precision {
        None if specification.zeros && !specification.left => {
            specification.width.saturating_sub(prefix.len())
        }
        precision => precision.unwrap_or(1),
    };
    let zeros = "0".repeat(least.saturating_sub(digits.len()));
    pad(specification, format!("{prefix}{zeros}{digits}"))
}

#[cfg(test)]
mod tests {
    use super::format;
    use crate::access::In;

    fn print(template: &str, arguments: &[u64]) -> String {
        // SAFETY: the list lives through the call and is only read.
        format(template.as_bytes(), unsafe { In::new(arguments.as_ptr()) })
    }

    #[test]
    fn numbers_have_their_width_their_zeros_and_their_size() {
        assert_eq!(print("%d %u %x", &[u64::MAX, 7, 0xff_0000_00ab]), "-1 7 ab");
        assert_eq!(
            print("%08X|%-6d|%+d", &[0xbeef, 5, 5]),
            "0000BEEF|5     |+5"
        );
        assert_eq!(
            print("%I64d %llx %#x", &[u64::MAX, u64::MAX, 16]),
            "-1 ffffffffffffffff 0x10"
        );
        assert_eq!(print("%hhu %hd %*d", &[0x1ff, 0xffff, 4, 7]), "255 -1    7");
    }

    #[test]
    fn strings_of_both_kinds_are_read_and_null_ones_named() {
        let ansi = b"abc\0";
        let wide: Vec<u16> = "wörld\0".encode_utf16().collect();
        let arguments = [
            ansi.as_ptr() as u64,
            wide.as_ptr() as u64,
            0,
            ansi.as_ptr() as u64,
        ];
        assert_eq!(
            print("%s %ws %s %.2s 100%%", &arguments),
            "abc wörld (null) ab 100%"
        );
    }

    #[test]
    fn unknown_letters_and_a_trailing_percent_sign_do_no_harm() {
        assert_eq!(print("%y%", &[]), "y");
    }
}
