//! Identifiers: 32-byte BLAKE3 hashes and 20-byte account addresses.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Text that does not name an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is written as {expected}; got `{text}`")]
pub struct ParseIdError {
    what: &'static str,
    expected: &'static str,
    text: String,
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $len:literal, $prefix:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Size in bytes.
            pub const LEN: usize = $len;
            /// All bytes zero: no real value has this identifier.
            pub const ZERO: Self = Self([0; $len]);

            /// The raw bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// The first four bytes in hex, for people and logs.
            pub fn short(&self) -> String {
                hex::encode(&self.0[..4])
            }
        }

        impl From<[u8; $len]> for $name {
            fn from(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = ParseIdError;
            fn try_from(bytes: &[u8]) -> Result<Self, ParseIdError> {
                bytes.try_into().map(Self).map_err(|_| ParseIdError {
                    what: stringify!($name),
                    expected: $expected,
                    text: format!("{} bytes", bytes.len()),
                })
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let mut bytes = [0; $len];
                hex::decode_to_slice(text.strip_prefix("0x").unwrap_or(text), &mut bytes).map_err(
                    |_| ParseIdError {
                        what: stringify!($name),
                        expected: $expected,
                        text: text.chars().take(80).collect(),
                    },
                )?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}

identifier!(
    /// A transaction: BLAKE3 over its whole encoding, signature included. Two encodings that differ
    /// in a byte are two transactions.
    TxId, 32, "", "64 hex digits"
);
identifier!(
    /// A block: BLAKE3 over its header as sealed, signature included.
    BlockId, 32, "", "64 hex digits"
);
identifier!(
    /// A chain: BLAKE3 over the canonical encoding of its genesis.
    GenesisId, 32, "", "64 hex digits"
);
identifier!(
    /// An account: the first 20 bytes of BLAKE3 over its public key, or of a contract's creation.
    Address, 20, "0x", "0x and 40 hex digits"
);
