//! Points in time as people read them.

/// Seconds of a day. Signed, because what is over has a negative time left.
pub(crate) const DAY: i64 = 86_400;

/// Seconds since 1970-01-01 UTC as `2026-01-31 12:00:00Z`.
///
/// The date is computed as in Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms",
/// `civil_from_days`: years that begin in March, eras of 400 years.
pub(crate) fn utc(unix_seconds: u64) -> String {
    let day = DAY.unsigned_abs();
    let (days, second) = (unix_seconds / day, unix_seconds % day);
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::utc;

    /// Compared with `date -u -d @N`.
    #[test]
    fn dates_are_those_of_the_gregorian_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00Z"),
            (951_782_400, "2000-02-29 00:00:00Z"),
            (951_868_799, "2000-02-29 23:59:59Z"),
            (951_868_800, "2000-03-01 00:00:00Z"),
            (1_735_689_599, "2024-12-31 23:59:59Z"),
            (4_107_542_400, "2100-03-01 00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), expected);
        }
    }
}
