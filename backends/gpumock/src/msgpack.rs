//! A reader of MessagePack, the form of AMD's metadata.

/// A value; numbers other than integers do not occur.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Nothing,
    Number(u64),
    Text(String),
    List(Vec<Value>),
    Map(Vec<(Value, Value)>),
}

impl Value {
    /// What a map holds for a name.
    pub fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Value::Map(pairs) => pairs
                .iter()
                .find(|(name, _)| name.text() == Some(key))
                .map(|(_, value)| value),
            _ => None,
        }
    }

    pub fn text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn number(&self) -> Option<u64> {
        match self {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }

    pub fn items(&self) -> &[Value] {
        match self {
            Value::List(items) => items,
            _ => &[],
        }
    }
}

/// The value that the bytes begin with; nothing where they are cut or of another form.
pub(crate) fn read(bytes: &[u8]) -> Option<Value> {
    Reader { bytes }.value(0)
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl Reader<'_> {
    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(taken)
    }

    fn big_endian(&mut self, count: usize) -> Option<u64> {
        let bytes = self.take(count)?;
        Some(bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > 16 {
            return None;
        }
        let kind = self.big_endian(1)? as u8;
        Some(match kind {
            0x00..=0x7f => Value::Number(u64::from(kind)),
            0x80..=0x8f => self.map(usize::from(kind & 0xf), depth)?,
            0x90..=0x9f => self.list(usize::from(kind & 0xf), depth)?,
            0xa0..=0xbf => self.string(usize::from(kind & 0x1f))?,
            0xc0 => Value::Nothing,
            0xc2 | 0xc3 => Value::Number(u64::from(kind & 1)),
            0xcc..=0xcf => Value::Number(self.big_endian(1 << (kind - 0xcc))?),
            0xd0..=0xd3 => Value::Number(self.big_endian(1 << (kind - 0xd0))?),
            0xd9..=0xdb => {
                let length = self.big_endian(1 << (kind - 0xd9))? as usize;
                self.string(length)?
            }
            0xdc | 0xdd => {
                let length = self.big_endian(2 << (kind - 0xdc))? as usize;
                self.list(length, depth)?
            }
            0xde | 0xdf => {
                let length = self.big_endian(2 << (kind - 0xde))? as usize;
                self.map(length, depth)?
            }
            _ => return None,
        })
    }

    fn string(&mut self, length: usize) -> Option<Value> {
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        Some(Value::Text(text))
    }

    fn list(&mut self, length: usize, depth: usize) -> Option<Value> {
        let mut items = Vec::new();
        for _ in 0..length {
            items.push(self.value(depth + 1)?);
        }
        Some(Value::List(items))
    }

    fn map(&mut self, length: usize, depth: usize) -> Option<Value> {
        let mut pairs = Vec::new();
        for _ in 0..length {
            pairs.push((self.value(depth + 1)?, self.value(depth + 1)?));
        }
        Some(Value::Map(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_lists_texts_and_numbers_are_read() {
        let bytes = b"\x82\xa1a\x93\x07\xcd\x01\x02\xc0\xa2bc\xd9\x03xyz";
        let value = read(bytes).unwrap();
        let list = [Value::Number(7), Value::Number(258), Value::Nothing];
        assert_eq!(value.get("a").unwrap().items(), list);
        assert_eq!(value.get("bc").unwrap().text(), Some("xyz"));
        assert_eq!(value.get("c"), None);
    }

    #[test]
    fn cut_bytes_are_nothing() {
        let bytes = b"\x82\xa1a\x93\x07\xcd\x01\x02\xc0\xa2bc\xd9\x03xyz";
        for length in 0..bytes.len() {
            assert_eq!(read(&bytes[..length]), None);
        }
        assert_eq!(read(&[0x91; 100]), None);
    }
}
