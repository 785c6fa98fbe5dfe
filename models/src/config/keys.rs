//! Reads one JSON object key by key: types, ranges, and which keys nobody asked for.
//!
//! Decides how a value of `config.json` becomes a number, a flag or a text, and what the
//! error says. Must not know what a key means. Read [`Keys`] first.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

/// A key of `config.json` that cannot be used, with the value found and what would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The key, nested keys joined by dots: `rope_scaling.type`; empty if it is the whole file.
    pub key: String,
    /// The value as JSON, shortened; `nothing` where the key is missing.
    pub found: String,
    /// What is wrong with it and what is supported.
    pub why: String,
    /// What the key belongs to: `config.json`, or the metadata of another format.
    pub origin: Cow<'static, str>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => write!(f, "{} is {}: {}", self.origin, self.found, self.why),
            key => write!(
                f,
                "{}: `{key}` is {}: {}",
                self.origin, self.found, self.why
            ),
        }
    }
}

impl std::error::Error for ConfigError {}

/// The longest part of a found value that an error repeats, in characters.
const FOUND_CHARS: usize = 80;

impl ConfigError {
    /// The same of the file called `file`.
    pub fn of(mut self, file: &str) -> ConfigError {
        self.origin = match self.origin {
            Cow::Borrowed("config.json") => file.to_string().into(),
            what => format!("{file}: {what}").into(),
        };
        self
    }

    /// An error about `found` under `key`.
    pub(crate) fn new(
        key: impl Into<String>,
        found: &dyn fmt::Display,
        why: impl Into<String>,
    ) -> Self {
        let mut text = found.to_string();
        if text.chars().count() > FOUND_CHARS {
            text = text.chars().take(FOUND_CHARS).collect::<String>() + "...";
        }
        ConfigError {
            key: key.into(),
            found: text,
            why: why.into(),
            origin: "config.json".into(),
        }
    }
}

/// Result of reading a configuration.
pub(crate) type Result<T> = std::result::Result<T, ConfigError>;

/// A JSON object that remembers which of its keys were asked for.
pub(crate) struct Keys<'j> {
    prefix: &'static str,
    map: &'j Map<String, Value>,
    asked: BTreeSet<&'static str>,
}

impl<'j> Keys<'j> {
    /// The object `map`, whose keys errors name with `prefix` before them.
    pub(crate) fn new(prefix: &'static str, map: &'j Map<String, Value>) -> Keys<'j> {
        Keys {
            prefix,
            map,
            asked: BTreeSet::new(),
        }
    }

    /// The value under `key`; an explicit `null` counts as missing.
    pub(crate) fn value(&mut self, key: &'static str) -> Option<&'j Value> {
        self.asked.insert(key);
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// An error about the value under `key`.
    pub(crate) fn refuse(&self, key: &str, why: impl Into<String>) -> ConfigError {
        let name = self.full_name(key);
        match self.map.get(key) {
            Some(value) => ConfigError::new(name, value, why),
            None => ConfigError::new(name, &"nothing", why),
        }
    }

    /// A whole number in `range`, if the key is there.
    pub(crate) fn whole(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u32>,
    ) -> Result<Option<u32>> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let number = value.as_u64().or_else(|| {
            // Some writers store counts as 1.0; anything with a fraction is refused.
            let real = value.as_f64()?;
            (real.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&real))
                .then_some(real as u64)
        });
        match number
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| range.contains(n))
        {
            Some(number) => Ok(Some(number)),
            None => {
                let (low, high) = (range.start(), range.end());
                Err(self.refuse(
                    key,
                    format!("a whole number from {low} to {high} is expected"),
                ))
            }
        }
    }

    /// A whole number in `range`; a missing key is an error.
    pub(crate) fn need(&mut self, key: &'static str, range: RangeInclusive<u32>) -> Result<u32> {
        let found = self.whole(key, range)?;
        found.ok_or_else(|| self.refuse(key, "this key is required"))
    }

    /// A number in `range`, if the key is there.
    pub(crate) fn real(
        &mut self,
        key: &'static str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f64>> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match value.as_f64().filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => {
                let (low, high) = (range.start(), range.end());
                Err(self.refuse(
                    key,
                    format!("a number from {low:e} to {high:e} is expected"),
                ))
            }
        }
    }

    /// `true` or `false`, if the key is there.
    pub(crate) fn flag(&mut self, key: &'static str) -> Result<Option<bool>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.refuse(key, "true or false is expected")),
        }
    }

    /// A text, if the key is there.
    pub(crate) fn text(&mut self, key: &'static str) -> Result<Option<&'j str>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.refuse(key, "a text is expected")),
        }
    }

    /// An object, if the key is there.
    pub(crate) fn object(&mut self, key: &'static str) -> Result<Option<&'j Map<String, Value>>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(_) => Err(self.refuse(key, "an object is expected")),
        }
    }

    /// Token ids: one number or a list of at most 64 numbers.
    pub(crate) fn ids(&mut self, key: &'static str) -> Result<Vec<u32>> {
        let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let found = match self.value(key) {
            None => Some(Vec::new()),
            Some(Value::Array(list)) if list.len() <= 64 => list.iter().map(one).collect(),
            Some(value) => one(value).map(|id| vec![id]),
        };
        found.ok_or_else(|| {
            self.refuse(
                key,
                "a token id or a list of at most 64 token ids is expected",
            )
        })
    }

    /// The entries of a list, none if the key is missing.
    pub(crate) fn list(&mut self, key: &'static str) -> Result<&'j [Value]> {
        match self.value(key) {
            None => Ok(&[]),
            Some(Value::Array(list)) => Ok(list),
            Some(_) => Err(self.refuse(key, "a list is expected")),
        }
    }

    /// Keys that nobody asked for, with their values.
    pub(crate) fn unasked(&self) -> impl Iterator<Item = (&'j str, &'j Value)> {
        let all = self.map.iter().map(|(key, value)| (key.as_str(), value));
        all.filter(|(key, _)| !self.asked.contains(key))
    }

    /// The key as errors name it.
    pub(crate) fn full_name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}
