//! How amounts are written: durations (`15m`), sizes (`64KiB`), rates (`100/200`). Reads them and writes them back.

use connection::Rate;

/// Unit and its milliseconds, largest first.
const DURATIONS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Unit and its bytes, largest first.
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

pub(super) const DURATION: &str = "a whole number with ms, s, m, h or d behind it, for example 90s or 7d";
pub(super) const SIZE: &str = "a whole number of bytes, or one with KiB, MiB or GiB behind it, for example 64KiB";
pub(super) const RATE: &str = "frames a second, a slash and the burst, for example 100/200, or off";

/// Frames a second and at once that are plainly a mistake: no connection carries a million frames a second.
const RATE_MAX: u32 = 1_000_000;

/// Milliseconds of a duration as it is written. A bare `0` needs no unit.
pub(super) fn duration_ms(text: &str) -> Option<u64> {
    if text == "0" { Some(0) } else { amount(text, &DURATIONS) }
}

/// Bytes of a size as it is written; without a unit it is bytes.
pub(super) fn size(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { amount(text, &SIZES) }
}

/// `Some(None)` is `off`: no limit.
pub(super) fn rate(text: &str) -> Option<Option<Rate>> {
    if text == "off" {
        return Some(None);
    }
    let (per_second, burst) = text.split_once('/')?;
    let number = |text: &str| digits(text)?.try_into().ok().filter(|n| (1..=RATE_MAX).contains(n));
    Some(Some(Rate { per_second: number(per_second)?, burst: number(burst)? }))
}

pub(super) fn show_duration(ms: u64) -> String {
    show(ms, &DURATIONS)
}

pub(super) fn show_size(bytes: u64) -> String {
    show(bytes, &SIZES)
}

pub(super) fn show_rate(rate: Option<Rate>) -> String {
    rate.map_or_else(|| "off".to_owned(), |rate| format!("{}/{}", rate.per_second, rate.burst))
}

/// A whole number without sign or space.
pub(super) fn digits(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

fn amount(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(at);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    digits(number)?.checked_mul(*factor)
}

/// In the largest unit that leaves no rest.
fn show(amount: u64, units: &[(&str, u64)]) -> String {
    let fits = |(_, factor): &&(&str, u64)| amount > 0 && amount.is_multiple_of(*factor);
    let (name, factor) = units.iter().find(fits).or(units.last()).copied().unwrap_or_default();
    format!("{}{name}", amount / factor.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_back() {
        for (text, ms) in
            [("7d", 604_800_000), ("1h", 3_600_000), ("15m", 900_000), ("30s", 30_000), ("250ms", 250), ("0ms", 0)]
        {
            assert_eq!(duration_ms(text), Some(ms), "{text}");
            assert_eq!(show_duration(ms), text);
        }
        assert_eq!(duration_ms("0"), Some(0));
        assert_eq!(show_duration(duration_ms("24h").unwrap()), "1d", "the largest unit that leaves no rest");
        for text in ["", "7", "d", "7 d", "-7d", "+7d", "1.5h", "7D", "1h30m", "99999999999999999999d", "ms"] {
            assert_eq!(duration_ms(text), None, "{text:?}");
        }
    }

    #[test]
    fn sizes_are_read_and_written_back() {
        for (text, bytes) in [("64KiB", 65_536), ("16MiB", 16 << 20), ("1GiB", 1 << 30), ("1000B", 1_000), ("0B", 0)] {
            assert_eq!(size(text), Some(bytes), "{text}");
            assert_eq!(show_size(bytes), text);
        }
        assert_eq!(size("65536"), Some(65_536));
        for text in ["64KB", "64 KiB", "64k", "KiB", "-1", "1.5MiB", "99999999999GiB"] {
            assert_eq!(size(text), None, "{text:?}");
        }
    }

    #[test]
    fn rates_are_read_and_written_back() {
        for text in ["100/200", "1/1", "off"] {
            assert_eq!(show_rate(rate(text).unwrap()), text);
        }
        for text in ["", "100", "0/1", "1/0", "100/", "/1", "100/200/300", "1000001/1", "on", "+1/2", "4294967297/1"] {
            assert_eq!(rate(text), None, "{text:?}");
        }
    }
}
