//! Prices and sizes as people write them, and as the chain counts them. Nothing is rounded: what is no
//! whole number of ticks or lots is refused.

use ghost_proto::message::MarketRow;

/// How a market counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Units {
    lot: u64,
    tick: u64,
    base_decimals: u32,
    quote_decimals: u32,
}

/// A number of units with its decimal point.
pub(super) fn decimal(units: u128, decimals: u32) -> String {
    let Some(one) = 10u128.checked_pow(decimals) else { return units.to_string() };
    let (whole, part) = (units / one, units % one);
    if part == 0 {
        return whole.to_string();
    }
    let part = format!("{part:0width$}", width = decimals as usize);
    format!("{whole}.{}", part.trim_end_matches('0'))
}

/// Digits and how many of them stand behind the point.
fn parse(text: &str) -> Option<(u128, u32)> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = format!("{whole}{part}");
    let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.parse().ok().filter(|_| all_digits)?;
    Some((number, u32::try_from(part.len()).ok()?))
}

impl Units {
    /// Of a market as a node describes it; `None` if that is nonsense.
    pub fn of(row: &MarketRow) -> Option<Self> {
        let sound = row.lot > 0 && row.tick > 0 && row.base_decimals <= 18 && row.quote_decimals <= 18;
        sound.then_some(Self {
            lot: row.lot,
            tick: row.tick,
            base_decimals: row.base_decimals,
            quote_decimals: row.quote_decimals,
        })
    }

    /// A price for people: quote for one base.
    pub fn price(&self, ticks: u64) -> String {
        // ticks × tick quote units for each lot of base units, to 12 digits behind the point.
        let top = u128::from(ticks) * u128::from(self.tick);
        let scaled = top.checked_mul(10u128.pow(self.base_decimals)).map(|top| {
            let bottom = u128::from(self.lot) * 10u128.pow(self.quote_decimals);
            let part = (top % bottom).checked_mul(1_000_000_000_000).map_or(0, |part| part / bottom);
            decimal((top / bottom).saturating_mul(1_000_000_000_000) + part, 12)
        });
        scaled.unwrap_or_else(|| format!("{ticks} ticks"))
    }

    /// A size for people, in base.
    pub fn size(&self, lots: u64) -> String {
        self.size_of(lots.into())
    }

    /// The same of many lots.
    pub fn size_of(&self, lots: u128) -> String {
        let units = lots.checked_mul(self.lot.into());
        units.map_or_else(|| format!("{lots} lots"), |units| decimal(units, self.base_decimals))
    }

    /// Quote units for people.
    pub fn quote_of(&self, units: u128) -> String {
        decimal(units, self.quote_decimals)
    }

    /// A price in ticks.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn ticks(&self, text: &str) -> Result<u64, String> {
        let (digits, scale) = parse(text).ok_or_else(|| format!("`{text}` is no price; write 1.25"))?;
        let top = digits
            .checked_mul(self.lot.into())
            .and_then(|it| it.checked_mul(10u128.pow(self.quote_decimals)));
        let bottom = 10u128
            .checked_pow(scale)
            .and_then(|it| it.checked_mul(self.tick.into()))
            .and_then(|it| it.checked_mul(10u128.pow(self.base_decimals)));
        let step = self.price(1);
        whole(top, bottom)
            .ok_or_else(|| format!("the price {text} is no whole number of ticks; a tick is {step}"))
    }

    /// A size in lots.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn lots(&self, text: &str) -> Result<u64, String> {
        let (digits, scale) = parse(text).ok_or_else(|| format!("`{text}` is no size; write 10 or 0.5"))?;
        let top = digits.checked_mul(10u128.pow(self.base_decimals));
        let bottom = 10u128.checked_pow(scale).and_then(|it| it.checked_mul(self.lot.into()));
        let step = self.size(1);
        whole(top, bottom)
            .ok_or_else(|| format!("the size {text} is no whole number of lots; a lot is {step}"))
    }
}

/// The quotient, if it is whole, above zero, and fits.
fn whole(top: Option<u128>, bottom: Option<u128>) -> Option<u64> {
    let (top, bottom) = (top?, bottom?);
    (top > 0 && top % bottom == 0).then(|| u64::try_from(top / bottom).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lot is 0.001 of an asset with 9 decimals, a tick 0.01 of one with 6.
    const UNITS: Units = Units { lot: 1_000_000, tick: 10, base_decimals: 9, quote_decimals: 6 };

    #[test]
    fn prices_and_sizes_go_there_and_back() {
        assert_eq!(UNITS.ticks("1.25"), Ok(125));
        assert_eq!(UNITS.price(125), "1.25");
        assert_eq!(UNITS.lots("10"), Ok(10_000));
        assert_eq!(UNITS.size(1), "0.001");
        for ticks in [1, 99, 100, 12_345] {
            assert_eq!(UNITS.ticks(&UNITS.price(ticks)), Ok(ticks));
            assert_eq!(UNITS.lots(&UNITS.size(ticks)), Ok(ticks));
        }
    }

    #[test]
    fn what_is_between_two_steps_is_refused_with_the_step() {
        assert!(UNITS.ticks("1.255").unwrap_err().contains("a tick is 0.01"));
        assert!(UNITS.lots("0.0005").unwrap_err().contains("a lot is 0.001"));
        for bad in ["", "-1", "1,5", "0", "1e3", ".", "999999999999999999999999999999999999"] {
            assert!(UNITS.ticks(bad).is_err() && UNITS.lots(bad).is_err(), "{bad}");
        }
    }
}
