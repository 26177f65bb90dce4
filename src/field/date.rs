//! Dates (RFC 9110 §5.6.7).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue};

/// Seconds since 1970. `now` is what a year of two digits is near to. Names may be in whatever case, and the day of the week may
/// be a wrong one; nothing else is forgiven.
pub(crate) fn parse_date(value: &[u8], now: SystemTime) -> Option<i64> {
    let value = value.trim_ascii();
    let (date, time) = imf_fixdate(value)
        .or_else(|| asctime(value))
        .or_else(|| rfc_850(value, now))?;
    Some(date.days()? * SECONDS_OF_A_DAY + time)
}

/// The date that a field holds. `None` if it is absent, holds none, or has more than one line.
pub(crate) fn single_date(headers: &HeaderMap, name: &HeaderName, now: SystemTime) -> Option<i64> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => parse_date(line.as_bytes(), now),
        _ => None,
    }
}

/// As it is sent. What is before 1970 or after 9999 is as near to it as can be written.
pub(crate) fn format_date(at: SystemTime) -> HeaderValue {
    /// The last second of 9999.
    const LATEST: Duration = Duration::from_secs(253_402_300_799);
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let date = httpdate::fmt_http_date(UNIX_EPOCH + since.min(LATEST));
    HeaderValue::try_from(date)
        .unwrap_or_else(|_| HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))
}

const SECONDS_OF_A_DAY: i64 = 24 * 60 * 60;

/// A date of the Gregorian calendar, if there is such a day. Ordered as time goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Date {
    year: i64,
    month: i64,
    day: i64,
}

impl Date {
    /// Since 1970. `None` if there is no such day.
    fn days(self) -> Option<i64> {
        (1..=self.days_of_the_month())
            .contains(&self.day)
            .then(|| self.days_if_valid())
    }

    fn days_of_the_month(self) -> i64 {
        let leaps = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        match self.month {
            2 if leaps => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    /// Years that begin in March end with the day that leaps.
    fn days_if_valid(self) -> i64 {
        let year = self.year - i64::from(self.month <= 2);
        let month = (self.month + 9) % 12;
        let before_the_year =
            year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
        let before_the_month = (153 * month + 2) / 5;
        before_the_year + before_the_month + self.day - 1 - 719_468
    }

    /// The reverse of `days`.
    fn of_days(days: i64) -> Self {
        let days = days + 719_468;
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        Self {
            year: year + era * 400 + i64::from(month >= 10),
            month: (month + 2) % 12 + 1,
            day,
        }
    }
}

/// A date, and the seconds of its day.
type Instant = (Date, i64);

/// `Sun, 06 Nov 1994 08:49:37 GMT`
fn imf_fixdate(text: &[u8]) -> Option<Instant> {
    if !has_shape(text, b"aaa, 00 aaa 0000 00:00:00 GMT") {
        return None;
    }
    let date = Date {
        year: number(&text[12..16]),
        month: month(&text[8..11])?,
        day: number(&text[5..7]),
    };
    Some((date, time(&text[17..25])?))
}

/// `Sun Nov  6 08:49:37 1994`
fn asctime(text: &[u8]) -> Option<Instant> {
    let day = if has_shape(text, b"aaa aaa  0 00:00:00 0000") {
        &text[9..10]
    } else if has_shape(text, b"aaa aaa 00 00:00:00 0000") {
        &text[8..10]
    } else {
        return None;
    };
    let date = Date {
        year: number(&text[20..24]),
        month: month(&text[4..7])?,
        day: number(day),
    };
    Some((date, time(&text[11..19])?))
}

/// `Sunday, 06-Nov-94 08:49:37 GMT`
fn rfc_850(text: &[u8], now: SystemTime) -> Option<Instant> {
    let comma = text.iter().position(|&b| b == b',')?;
    let (weekday, text) = text.split_at(comma);
    // From `Monday` to `Wednesday`.
    let is_weekday =
        (6..=9).contains(&weekday.len()) && weekday.iter().all(u8::is_ascii_alphabetic);
    if !is_weekday || !has_shape(text, b", 00-aaa-00 00:00:00 GMT") {
        return None;
    }
    let time = time(&text[12..20])?;
    let of_year = |year| {
        Some(Date {
            year,
            month: month(&text[5..8])?,
            day: number(&text[2..4]),
        })
    };
    // RFC 9110 §5.6.7: what would be more than 50 years ahead is of the century before.
    let (today, time_of_day) = civil(now);
    let last = today.year + 50;
    let year = last - (last - number(&text[9..11])).rem_euclid(100);
    let date = of_year(year)?;
    let horizon = Date {
        year: last,
        ..today
    };
    if (date, time) > (horizon, time_of_day) {
        return Some((of_year(year - 100)?, time));
    }
    Some((date, time))
}

fn civil(at: SystemTime) -> Instant {
    let whole = |since: Duration| i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    let seconds = match at.duration_since(UNIX_EPOCH) {
        Ok(since) => whole(since),
        Err(before) => -whole(before.duration()),
    };
    let date = Date::of_days(seconds.div_euclid(SECONDS_OF_A_DAY));
    (date, seconds.rem_euclid(SECONDS_OF_A_DAY))
}

/// `a` stands for a letter, `0` for a digit, and everything else for itself.
fn has_shape(text: &[u8], shape: &[u8]) -> bool {
    let fits = |(b, shape): (&u8, &u8)| match shape {
        b'a' => b.is_ascii_alphabetic(),
        b'0' => b.is_ascii_digit(),
        shape => b.eq_ignore_ascii_case(shape),
    };
    text.len() == shape.len() && text.iter().zip(shape).all(fits)
}

/// Of a few digits.
fn number(digits: &[u8]) -> i64 {
    let digit = |total: i64, b: &u8| total * 10 + i64::from(b.wrapping_sub(b'0'));
    digits.iter().fold(0, digit)
}

fn month(name: &[u8]) -> Option<i64> {
    const NAMES: [&[u8; 3]; 12] = [
        b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov",
        b"Dec",
    ];
    let months = (1..).zip(NAMES);
    months
        .filter(|(_, known)| name.eq_ignore_ascii_case(*known))
        .map(|(month, _)| month)
        .next()
}

/// `08:49:37`
fn time(text: &[u8]) -> Option<i64> {
    let [hour, minute, second] = [0, 3, 6].map(|at| number(&text[at..at + 2]));
    // RFC 9110 §5.6.7: a minute may have 61 seconds. Days here have none of those: it is the one before.
    let is_valid = hour < 24 && minute < 60 && second <= 60;
    is_valid.then_some((hour * 60 + minute) * 60 + second.min(59))
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use proptest::prelude::{Strategy, prop_assert, prop_assert_eq, proptest};

    use super::*;

    const SOME: i64 = 784_111_777;
    const YEAR: i64 = 365 * SECONDS_OF_A_DAY;

    fn at(seconds: i64) -> SystemTime {
        let length = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 {
            UNIX_EPOCH - length
        } else {
            UNIX_EPOCH + length
        }
    }

    fn parse(text: &str) -> Option<i64> {
        parse_date(text.as_bytes(), at(SOME))
    }

    #[test]
    fn a_date_has_one_of_three_forms() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Sun Nov 06 08:49:37 1994",
            "SUN, 06 nOV 1994 08:49:37 gmt",
            "sunday, 06-NOV-94 08:49:37 Gmt",
            "sun nov  6 08:49:37 1994",
            // A wrong day of the week.
            "Mon, 06 Nov 1994 08:49:37 GMT",
            "Wednesday, 06-Nov-94 08:49:37 GMT",
            "Sat Nov  6 08:49:37 1994",
            " \tSun, 06 Nov 1994 08:49:37 GMT ",
        ] {
            assert_eq!(parse(text), Some(SOME), "{text}");
        }
    }

    #[test]
    fn nothing_else_is_a_date() {
        for text in [
            "",
            "0",
            "-1",
            "784111777",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49:37 AEST",
            "Sun, 06 Nov 1994 08:49:37 +0000",
            "Sun, 06 Nov 1994 08:49:37 GMT+1",
            "Sun, 06 Nov 94 08:49:37 GMT",
            "Sun 06 Nov 1994 08:49:37 GMT",
            "Sun, 06-Nov-1994 08:49:37 GMT",
            "Sun, 06-Nov-94 08:49:37 GMT",
            "Sunday, 06-Nov-1994 08:49:37 GMT",
            "Sunday, 06 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08.49.37 GMT",
            "Sun, 06 Nov 1994 8:49:37 GMT",
            "Sun, 06 Nov 1994  8:49:37 GMT",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun,  6 Nov 1994 08:49:37 GMT",
            "Sun,  06 Nov 1994 08:49:37 GMT",
            "Sun, 06  Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov  1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37  GMT",
            "Sun,06 Nov 1994 08:49:37 GMT",
            "06 Nov 1994 08:49:37 GMT",
            "Sun Nov 6 08:49:37 1994",
            "Sun Nov  6 08:49:37 1994 GMT",
            "Sun Nov  6 8:49:37 1994",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 06 Nox 1994 08:49:37 GMT",
            "S\u{fc}, 06 Nov 1994 08:49:37 GMT",
            "1994-11-06T08:49:37Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_day_or_a_time_that_is_none_is_rejected() {
        for text in [
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 31 Nov 1994 08:49:37 GMT",
            "Sun, 31 Feb 1996 08:49:37 GMT",
            "Sun, 30 Feb 1996 08:49:37 GMT",
            "Sun, 29 Feb 1994 08:49:37 GMT",
            "Sun, 29 Feb 1900 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1994 08:60:37 GMT",
            "Sun, 06 Nov 1994 08:49:61 GMT",
            "Sunday, 29-Feb-94 08:49:37 GMT",
            "Sun Feb 30 08:49:37 1996",
            "Sun Feb  0 08:49:37 1996",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        for (text, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Wed, 31 Dec 1969 23:59:59 GMT", -1),
            ("Tue, 29 Feb 2000 00:00:00 GMT", 951_782_400),
            ("Thu, 29 Feb 1996 23:59:59 GMT", 825_638_399),
            ("Sat, 20 Nov 2286 17:46:39 GMT", 9_999_999_999),
            ("Fri, 31 Dec 9999 23:59:59 GMT", 253_402_300_799),
            ("Sat, 01 Jan 0000 00:00:00 GMT", -62_167_219_200),
            // A second that was put in is the one before.
            ("Sat, 31 Dec 2016 23:59:60 GMT", 1_483_228_799),
        ] {
            assert_eq!(parse(text), Some(seconds), "{text}");
        }
    }

    // RFC 9110 §5.6.7.
    #[test]
    fn a_year_of_two_digits_is_never_more_than_fifty_years_ahead() {
        let parse = |text: &str, now: &str| {
            let date = |text: &str, now| parse_date(text.as_bytes(), now).unwrap();
            let at = at(date(now, UNIX_EPOCH));
            assert!(parse_date(text.as_bytes(), at).is_some());
            Date::of_days(date(text, at).div_euclid(SECONDS_OF_A_DAY)).year
        };
        let now = "Fri, 16 Oct 2026 10:00:00 GMT";
        for (text, year) in [
            ("Friday, 16-Oct-76 10:00:00 GMT", 2076),
            ("Friday, 16-Oct-76 10:00:01 GMT", 1976),
            ("Friday, 17-Oct-76 00:00:00 GMT", 1976),
            ("Friday, 01-Jan-77 00:00:00 GMT", 1977),
            ("Friday, 31-Dec-75 23:59:59 GMT", 2075),
            ("Friday, 16-Oct-26 10:00:00 GMT", 2026),
            ("Friday, 01-Jan-00 10:00:00 GMT", 2000),
            ("Friday, 01-Jan-99 10:00:00 GMT", 1999),
        ] {
            assert_eq!(parse(text, now), year, "{text}");
        }
        let late = "Fri, 16 Oct 2099 10:00:00 GMT";
        assert_eq!(parse("Friday, 01-Jan-05 10:00:00 GMT", late), 2105);
        // 2100 has no such day, and 2000 is not meant.
        let at = at(parse_date(late.as_bytes(), UNIX_EPOCH).unwrap());
        assert_eq!(parse_date(b"Sunday, 29-Feb-00 10:00:00 GMT", at), None);
    }

    #[test]
    fn a_field_holds_one_date_on_one_line() {
        const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
        let single = |lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(http::header::EXPIRES, HeaderValue::from_static(line));
            }
            single_date(&headers, &http::header::EXPIRES, at(SOME))
        };
        assert_eq!(single(&[DATE]), Some(SOME));
        assert_eq!(single(&[]), None);
        assert_eq!(single(&["0"]), None);
        assert_eq!(single(&[DATE, DATE]), None);
        assert_eq!(single(&[DATE, ""]), None);
        assert_eq!(single(&["", DATE]), None);
    }

    // Invariant 19.
    #[test]
    fn any_time_can_be_sent_and_be_now() {
        const FARTHEST: i64 = i64::MAX / 4;
        assert_eq!(format_date(at(SOME)), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(format_date(at(-1)), "Thu, 01 Jan 1970 00:00:00 GMT");
        for far in [253_402_300_799, 253_402_300_800, FARTHEST] {
            assert_eq!(format_date(at(far)), "Fri, 31 Dec 9999 23:59:59 GMT");
        }
        for now in [-FARTHEST, -62_167_219_201, -1, 0, FARTHEST] {
            let date = parse_date(b"Sunday, 06-Nov-94 08:49:37 GMT", at(now)).unwrap();
            assert!(date <= now + 51 * YEAR && date > now - 51 * YEAR);
        }
    }

    /// All that can be written, with the time that it is then: less than fifty years away.
    fn dates(range: Range<i64>) -> impl Strategy<Value = (i64, SystemTime)> {
        let near = -49 * YEAR..49 * YEAR;
        (range, near).prop_map(|(seconds, away)| (seconds, at(seconds + away)))
    }

    proptest! {
        #[test]
        fn every_date_that_is_written_is_read_in_all_forms((seconds, now) in dates(0..253_402_300_800)) {
            let imf = httpdate::fmt_http_date(at(seconds));
            prop_assert_eq!(parse_date(imf.as_bytes(), now), Some(seconds));
            let (weekday, day, month, year, time) = (&imf[..3], &imf[5..7], &imf[8..11], &imf[12..16], &imf[17..25]);
            let rfc_850 = format!("{weekday}sday, {day}-{month}-{} {time} GMT", &year[2..]);
            prop_assert_eq!(parse_date(rfc_850.as_bytes(), now), Some(seconds));
            let padded = day.strip_prefix('0').map_or(day.into(), |day| format!(" {day}"));
            for day in [day, &padded] {
                let asctime = format!("{weekday} {month} {day} {time} {year}");
                prop_assert_eq!(parse_date(asctime.as_bytes(), now), Some(seconds));
            }
        }

        #[test]
        fn days_are_numbered_without_gaps(days in -1_000_000_000_i64..1_000_000_000) {
            let date = Date::of_days(days);
            prop_assert_eq!(date.days(), Some(days));
            prop_assert!(date < Date::of_days(days + 1));
        }
    }
}
