//! Metadata of a GGUF file: typed values under keys.

use std::collections::BTreeMap;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum GgufValue {
    /// A number without a sign, of any width.
    Unsigned(u64),
    /// A number with a sign, of any width.
    Signed(i64),
    /// A floating-point number, of either width.
    Float(f64),
    /// A flag.
    Flag(bool),
    /// A text; what is no UTF-8 in it was replaced.
    Text(String),
    /// Values of one type.
    List(Vec<GgufValue>),
}

impl GgufValue {
    /// The whole number, unless it is negative or another type.
    pub fn as_whole(&self) -> Option<u64> {
        match *self {
            GgufValue::Unsigned(number) => Some(number),
            GgufValue::Signed(number) => number.try_into().ok(),
            _ => None,
        }
    }

    /// The number of any type.
    pub fn as_real(&self) -> Option<f64> {
        match *self {
            GgufValue::Unsigned(number) => Some(number as f64),
            GgufValue::Signed(number) => Some(number as f64),
            GgufValue::Float(number) => Some(number),
            _ => None,
        }
    }

    /// The text.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            GgufValue::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Values by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(pub BTreeMap<String, GgufValue>);

impl Metadata {
    /// The value under `key`.
    pub fn get(&self, key: &str) -> Option<&GgufValue> {
        self.0.get(key)
    }

    /// The whole number under `key`; of a list that repeats one number, this one.
    pub fn whole(&self, key: &str) -> Option<u64> {
        match self.get(key)? {
            GgufValue::List(list) => {
                let first = list.first()?;
                let same = list.iter().all(|value| value == first);
                first.as_whole().filter(|_| same)
            }
            value => value.as_whole(),
        }
    }

    /// The number under `key`.
    pub fn real(&self, key: &str) -> Option<f64> {
        self.get(key)?.as_real()
    }

    /// The flag under `key`.
    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.get(key)? {
            GgufValue::Flag(flag) => Some(*flag),
            _ => None,
        }
    }

    /// The text under `key`.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_text()
    }

    /// The list under `key`.
    pub fn list(&self, key: &str) -> Option<&[GgufValue]> {
        match self.get(key)? {
            GgufValue::List(list) => Some(list),
            _ => None,
        }
    }
}
