//! Ranges of IP addresses, as allow- and deny-lists name them.

use std::{net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::address::Host;

/// A range of IP addresses, "10.0.0.0/8" or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    base: IpAddr,
    bits: u8,
}

/// A text that is no [`Prefix`]. Show it to whoever wrote the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no IP address or range such as 10.0.0.0/8 or 2001:db8::/32")]
pub struct PrefixError(String);

impl FromStr for Prefix {
    type Err = PrefixError;
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let error = || PrefixError(text.to_owned());
        let (ip, bits) = text.split_once('/').map_or((text, None), |(ip, bits)| (ip, Some(bits)));
        let base: IpAddr = ip.parse().map_err(|_| error())?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), |bits| bits.parse().map_err(|_| error()))?;
        if bits > most {
            return Err(error());
        }
        Ok(Self { base, bits })
    }
}

impl TryFrom<String> for Prefix {
    type Error = PrefixError;
    fn try_from(text: String) -> Result<Self, PrefixError> {
        text.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        format!("{}/{}", prefix.base, prefix.bits)
    }
}

impl Prefix {
    /// True if the host is in the range.
    pub fn contains(&self, host: &Host) -> bool {
        let (base, ip, len) = match (self.base, host) {
            (IpAddr::V4(base), Host::Ip4(ip)) => (u128::from(base.to_bits()), u128::from(ip.to_bits()), 32),
            (IpAddr::V6(base), Host::Ip6(ip)) => (base.to_bits(), ip.to_bits(), 128),
            _ => return false,
        };
        let shift = len - u32::from(self.bits);
        base.checked_shr(shift).unwrap_or(0) == ip.checked_shr(shift).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        let host = |text: &str| Host::from(text.parse::<IpAddr>().unwrap());
        let prefix = |text: &str| text.parse::<Prefix>().unwrap();
        assert!(prefix("10.0.0.0/8").contains(&host("10.255.1.1")));
        assert!(!prefix("10.0.0.0/8").contains(&host("11.0.0.0")));
        assert!(
            prefix("0.0.0.0/0").contains(&host("1.2.3.4")) && !prefix("0.0.0.0/0").contains(&host("::1"))
        );
        assert!(prefix("::/0").contains(&host("2a00::1")));
        assert!(
            prefix("1.2.3.4").contains(&host("1.2.3.4")) && !prefix("1.2.3.4").contains(&host("1.2.3.5"))
        );
        assert!(prefix("2a00:1::/32").contains(&host("2a00:1:ffff::1")));
        for bad in ["10.0.0.0/33", "x", "::/129", "1.2.3.4/", "1.2.3.4/-1"] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }
}
