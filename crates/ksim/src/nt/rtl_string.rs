//! Counted strings.

use wfp_schema::NtStatus;

use super::pool::{ALIGNMENT, Freed, Request};
use crate::access::{In, Out, plain};
use crate::cpu::{APC, DISPATCH, HIGH, PASSIVE};
use crate::export::{Call, exports};
use crate::verifier::{ARGUMENT, POOL_DOUBLE_FREE};

/// `UNICODE_STRING` and `ANSI_STRING`: lengths in bytes, and where the characters are.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct UnicodeString {
    length: u16,
    maximum: u16,
    buffer: Out<u8>,
}
plain!(UnicodeString);

/// The largest length of a counted string, in bytes.
const LONGEST: usize = 0xfffe;
const TAG: u32 = u32::from_le_bytes(*b"Strg");
/// How the verifier calls buffers that the library allocated.
const KIND: &str = "string buffer";

impl UnicodeString {
    const EMPTY: Self = Self {
        length: 0,
        maximum: 0,
        buffer: Out::null(),
    };

    /// A string of `length` bytes in `maximum` at `buffer`.
    pub(crate) fn at(buffer: Out<u8>, length: usize, maximum: usize) -> Self {
        let short = |size| u16::try_from(size).unwrap_or(u16::MAX);
        Self {
            length: short(length),
            maximum: short(maximum),
            buffer,
        }
    }

    /// Its bytes.
    fn bytes(self) -> Vec<u8> {
        let mut bytes = vec![0; usize::from(self.length)];
        if !self.buffer.is_null() {
            self.buffer.as_in().copy_to(&mut bytes);
        }
        bytes
    }

    /// Its UTF-16 units.
    fn units(self) -> Vec<u16> {
        self.bytes()
            .chunks_exact(2)
            .filter_map(|pair| pair.first_chunk().copied().map(u16::from_le_bytes))
            .collect()
    }

    /// Its characters.
    pub(crate) fn text(self) -> String {
        String::from_utf16_lossy(&self.units())
    }

    /// Its characters, for a string of bytes.
    pub(crate) fn ansi_text(self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// Writes `bytes` at the start of its buffer, a terminator if there is room, and its new length.
    fn put(mut self, at: Out<Self>, bytes: &[u8], terminator: usize) {
        self.buffer.copy_from(bytes);
        if bytes.len() + terminator <= usize::from(self.maximum) {
            self.buffer
                .offset::<u8>(bytes.len())
                .copy_from(&[0; 2][..terminator.min(2)]);
        }
        self.length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        at.set(self);
    }
}

fn to_bytes(units: &[u16]) -> Vec<u8> {
    units.iter().flat_map(|unit| unit.to_le_bytes()).collect()
}

/// The upper-case form of a UTF-16 unit, one unit for one, as the kernel's table has it.
fn upcase(unit: u16) -> u16 {
    let Some(letter) = char::from_u32(u32::from(unit)) else {
        return unit;
    };
    let mut upper = letter.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(upper), None) => u16::try_from(u32::from(upper)).unwrap_or(unit),
        _ => unit,
    }
}

fn folded(string: In<UnicodeString>, ignore_case: bool) -> Vec<u16> {
    let units = string.get().map(UnicodeString::units).unwrap_or_default();
    if ignore_case {
        units.into_iter().map(upcase).collect()
    } else {
        units
    }
}

fn compare(first: In<UnicodeString>, second: In<UnicodeString>, ignore_case: bool) -> i32 {
    let (first, second) = (folded(first, ignore_case), folded(second, ignore_case));
    let differing = first
        .iter()
        .zip(&second)
        .find(|(left, right)| left != right);
    match differing {
        Some((left, right)) => i32::from(*left) - i32::from(*right),
        None => i32::try_from(first.len()).unwrap_or(0) - i32::try_from(second.len()).unwrap_or(0),
    }
}

/// Appends `bytes` if there is room.
fn append(to: Out<UnicodeString>, bytes: &[u8]) -> u32 {
    let Some(string) = to.get() else {
        return NtStatus::INVALID_PARAMETER.code();
    };
    let mut all = string.bytes();
    all.extend_from_slice(bytes);
    if all.len() > usize::from(string.maximum) {
        return NtStatus::BUFFER_TOO_SMALL.code();
    }
    string.put(to, &all, 2);
    NtStatus::SUCCESS.code()
}

/// Puts `bytes` into `to`, in a new buffer or the one that it has.
fn convert(
    call: &Call<'_>,
    to: Out<UnicodeString>,
    bytes: &[u8],
    allocate: bool,
    terminator: usize,
) -> u32 {
    let size = bytes.len() + terminator;
    if size > LONGEST + terminator {
        return NtStatus::INVALID_PARAMETER.code();
    }
    let string = if allocate {
        let request = Request {
            size,
            tag: TAG,
            site: call.site(),
            zeroed: true,
            paged: true,
            alignment: ALIGNMENT,
        };
        let Some(block) = call.machine().nt().pool().allocate(&request) else {
            return NtStatus::INSUFFICIENT_RESOURCES.code();
        };
        call.machine()
            .verifier()
            .track(call, KIND, block.address, "", size);
        // SAFETY: a block of this size that was just allocated.
        let buffer = unsafe { Out::new(block.address as *mut u8) };
        UnicodeString {
            length: 0,
            maximum: u16::try_from(size).unwrap_or(u16::MAX),
            buffer,
        }
    } else {
        let string = to.get().unwrap_or(UnicodeString::EMPTY);
        if size > usize::from(string.maximum) {
            return NtStatus::BUFFER_OVERFLOW.code();
        }
        string
    };
    string.put(to, bytes, terminator);
    NtStatus::SUCCESS.code()
}

fn free(call: &Call<'_>, string: Out<UnicodeString>) {
    let buffer = string.get().map_or(0, |string| string.buffer.address());
    if buffer == 0 {
        return;
    }
    call.machine().verifier().forget(KIND, buffer);
    if let Freed::Unknown(_) = call.machine().nt().pool().free(buffer, call.site()) {
        call.violation(
            &POOL_DOUBLE_FREE,
            "a string's buffer is freed that the library did not allocate",
        );
    }
    string.set(UnicodeString::EMPTY);
}

/// The number of units before the NUL.
fn length<T: crate::access::Plain + PartialEq + Default>(text: In<T>) -> usize {
    (0..LONGEST)
        .take_while(|&at| text.at(at).is_some_and(|unit| unit != T::default()))
        .count()
}

fn initialize<T: crate::access::Plain + PartialEq + Default>(
    call: &Call<'_>,
    to: Out<UnicodeString>,
    source: Out<T>,
) {
    let bytes = length(source.as_in()) * size_of::<T>();
    if bytes + size_of::<T>() > LONGEST {
        call.violation(&ARGUMENT, "a string is longer than a counted string can be");
    }
    let maximum = if source.is_null() {
        0
    } else {
        bytes + size_of::<T>()
    };
    to.set(UnicodeString {
        length: u16::try_from(bytes).unwrap_or(u16::MAX),
        maximum: u16::try_from(maximum).unwrap_or(u16::MAX),
        buffer: source.offset(0),
    });
}

/// A number in base 2, 8, 10 or 16, upper case; base 0 is 10.
fn digits(value: u64, base: u32) -> Option<String> {
    Some(match base {
        0 | 10 => value.to_string(),
        2 => format!("{value:b}"),
        8 => format!("{value:o}"),
        16 => format!("{value:X}"),
        _ => return None,
    })
}

fn number_to_string(value: u64, base: u32, to: Out<UnicodeString>) -> u32 {
    let Some(text) = digits(value, base) else {
        return NtStatus::INVALID_PARAMETER.code();
    };
    let units: Vec<u16> = text.encode_utf16().collect();
    let maximum = to.get().map_or(0, |string| usize::from(string.maximum));
    if units.len() * 2 > maximum {
        return NtStatus::BUFFER_OVERFLOW.code();
    }
    let Some(string) = to.get() else {
        return NtStatus::INVALID_PARAMETER.code();
    };
    string.put(to, &to_bytes(&units), 2);
    NtStatus::SUCCESS.code()
}

/// Reads a number as `RtlUnicodeStringToInteger` does: blanks, a sign, a prefix when the base is 0, then digits.
fn string_to_number(text: &str, base: u32) -> Option<u32> {
    let text = text.trim_start_matches(|letter: char| letter <= ' ');
    let (negative, text) = match text.as_bytes().first() {
        Some(b'-') => (true, text.get(1..)?),
        Some(b'+') => (false, text.get(1..)?),
        _ => (false, text),
    };
    let prefixed = |prefix| text.strip_prefix(prefix);
    let (base, text) = match base {
        0 => prefixed("0x")
            .map(|rest| (16, rest))
            .or_else(|| prefixed("0o").map(|rest| (8, rest)))
            .or_else(|| prefixed("0b").map(|rest| (2, rest)))
            .unwrap_or((10, text)),
        2 | 8 | 10 | 16 => (base, text),
        _ => return None,
    };
    let value = text
        .chars()
        .map_while(|letter| letter.to_digit(base))
        .fold(0u32, |value, digit| {
            value.wrapping_mul(base).wrapping_add(digit)
        });
    Some(if negative {
        value.wrapping_neg()
    } else {
        value
    })
}

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-rtlinitunicodestring>
    fn RtlInitUnicodeString(call, to: Out<UnicodeString>, source: Out<u16>),
    irql PASSIVE..=HIGH;
    { initialize(&call, to, source); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-rtlinitansistring>
    fn RtlInitAnsiString(call, to: Out<UnicodeString>, source: Out<u8>),
    irql PASSIVE..=HIGH;
    { initialize(&call, to, source); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-rtlcopyunicodestring>
    fn RtlCopyUnicodeString(call, to: Out<UnicodeString>, from: In<UnicodeString>),
    irql PASSIVE..=HIGH;
    {
        let mut bytes = from.get().map(UnicodeString::bytes).unwrap_or_default();
        let Some(string) = to.get() else { return };
        bytes.truncate(usize::from(string.maximum));
        string.put(to, &bytes, 2);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-rtlappendunicodestringtostring>
    fn RtlAppendUnicodeStringToString(call, to: Out<UnicodeString>, from: In<UnicodeString>) -> u32,
    irql PASSIVE..=DISPATCH;
    { append(to, &from.get().map(UnicodeString::bytes).unwrap_or_default()) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-rtlappendunicodetostring>
    fn RtlAppendUnicodeToString(call, to: Out<UnicodeString>, from: In<u16>) -> u32,
    irql PASSIVE..=DISPATCH;
    {
        let units: Vec<u16> = (0..length(from)).filter_map(|at| from.at(at)).collect();
        append(to, &to_bytes(&units))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-rtlcompareunicodestring>
    fn RtlCompareUnicodeString(call, first: In<UnicodeString>, second: In<UnicodeString>, ignore_case: u8) -> i32,
    irql PASSIVE..=PASSIVE;
    { compare(first, second, ignore_case != 0) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-rtlequalunicodestring>
    fn RtlEqualUnicodeString(call, first: In<UnicodeString>, second: In<UnicodeString>, ignore_case: u8) -> u8,
    irql PASSIVE..=PASSIVE;
    { u8::from(compare(first, second, ignore_case != 0) == 0) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nf-ntddk-rtlprefixunicodestring>
    fn RtlPrefixUnicodeString(call, prefix: In<UnicodeString>, string: In<UnicodeString>, ignore_case: u8) -> u8,
    irql PASSIVE..=PASSIVE;
    { u8::from(folded(string, ignore_case != 0).starts_with(&folded(prefix, ignore_case != 0))) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-rtlupcaseunicodechar>
    fn RtlUpcaseUnicodeChar(call, unit: u16) -> u16,
    irql PASSIVE..=APC;
    { upcase(unit) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-rtldowncaseunicodechar>
    fn RtlDowncaseUnicodeChar(call, unit: u16) -> u16,
    irql PASSIVE..=PASSIVE;
    {
        let lower = char::from_u32(u32::from(unit)).and_then(|letter| letter.to_lowercase().next());
        lower.and_then(|lower| u16::try_from(u32::from(lower)).ok()).unwrap_or(unit)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nf-ntddk-rtlupcaseunicodestring>
    fn RtlUpcaseUnicodeString(call, to: Out<UnicodeString>, from: In<UnicodeString>, allocate: u8) -> u32,
    irql PASSIVE..=APC, fails NtStatus::INSUFFICIENT_RESOURCES.code();
    { convert(&call, to, &to_bytes(&folded(from, true)), allocate != 0, 0) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-rtlintegertounicodestring>
    fn RtlIntegerToUnicodeString(call, value: u32, base: u32, to: Out<UnicodeString>) -> u32,
    irql PASSIVE..=PASSIVE;
    { number_to_string(u64::from(value), base, to) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-rtlint64tounicodestring>
    fn RtlInt64ToUnicodeString(call, value: u64, base: u32, to: Out<UnicodeString>) -> u32,
    irql PASSIVE..=PASSIVE;
    { number_to_string(value, base, to) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-rtlunicodestringtointeger>
    fn RtlUnicodeStringToInteger(call, string: In<UnicodeString>, base: u32, value: Out<u32>) -> u32,
    irql PASSIVE..=PASSIVE;
    {
        let text = string.get().map(UnicodeString::text).unwrap_or_default();
        let Some(number) = string_to_number(&text, base) else { return NtStatus::INVALID_PARAMETER.code() };
        value.set(number);
        NtStatus::SUCCESS.code()
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-rtlansistringtounicodestring>
    fn RtlAnsiStringToUnicodeString(call, to: Out<UnicodeString>, from: In<UnicodeString>, allocate: u8) -> u32,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES.code();
    {
        let bytes = from.get().map(UnicodeString::bytes).unwrap_or_default();
        let units: Vec<u16> = bytes.into_iter().map(u16::from).collect();
        convert(&call, to, &to_bytes(&units), allocate != 0, 2)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-rtlunicodestringtoansistring>
    fn RtlUnicodeStringToAnsiString(call, to: Out<UnicodeString>, from: In<UnicodeString>, allocate: u8) -> u32,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES.code();
    {
        let units = from.get().map(UnicodeString::units).unwrap_or_default();
        let bytes: Vec<u8> = units.into_iter().map(|unit| u8::try_from(unit).unwrap_or(b'?')).collect();
        convert(&call, to, &bytes, allocate != 0, 1)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-rtlfreeunicodestring>
    fn RtlFreeUnicodeString(call, string: Out<UnicodeString>),
    irql PASSIVE..=APC;
    { free(&call, string); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-rtlfreeansistring>
    fn RtlFreeAnsiString(call, string: Out<UnicodeString>),
    irql PASSIVE..=APC;
    { free(&call, string); }

    /// <https://learn.microsoft.com/cpp/c-runtime-library/reference/strlen-wcslen-mbslen-mbslen-l-mbstrlen-mbstrlen-l>
    fn wcslen(call, text: In<u16>) -> usize,
    irql PASSIVE..=HIGH;
    { length(text) }

    /// <https://learn.microsoft.com/cpp/c-runtime-library/reference/strlen-wcslen-mbslen-mbslen-l-mbstrlen-mbstrlen-l>
    fn strlen(call, text: In<u8>) -> usize,
    irql PASSIVE..=HIGH;
    { length(text) }
}

#[cfg(test)]
mod tests {
    use super::{digits, string_to_number, upcase};

    #[test]
    fn numbers_are_read_as_the_function_s_page_says() {
        assert_eq!(string_to_number("  -12x", 10), Some(12u32.wrapping_neg()));
        assert_eq!(string_to_number("0x1F", 0), Some(31));
        assert_eq!(string_to_number("0b101", 0), Some(5));
        assert_eq!(string_to_number("17", 7), None);
        assert_eq!(digits(255, 16).as_deref(), Some("FF"));
        assert_eq!(digits(255, 3), None);
    }

    #[test]
    fn a_letter_whose_upper_case_is_two_letters_stays() {
        assert_eq!(upcase(u16::from(b'a')), u16::from(b'A'));
        assert_eq!(upcase(0xdf), 0xdf);
        assert_eq!(upcase(0xd800), 0xd800);
    }
}
