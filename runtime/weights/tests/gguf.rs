//! GGUF files: what is read, and that nothing a file says is trusted.

use std::path::Path;
use std::sync::Arc;

use hadal_device::{DType, Pages};
use hadal_weights::{FileType, Gguf, GgufValue, TensorSource, WeightsError};

/// Writes a GGUF file piece by piece.
struct Writer {
    version: u32,
    pairs: Vec<Vec<u8>>,
    tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

impl Writer {
    fn new() -> Writer {
        Writer {
            version: 3,
            pairs: Vec::new(),
            tensors: Vec::new(),
        }
    }

    fn pair(mut self, key: &str, kind: u32, value: &[u8]) -> Writer {
        self.pairs
            .push([text(key), kind.to_le_bytes().to_vec(), value.to_vec()].concat());
        self
    }

    fn number(self, key: &str, value: u32) -> Writer {
        self.pair(key, 4, &value.to_le_bytes())
    }

    fn tensor(mut self, name: &str, dims: &[u64], kind: u32, data: Vec<u8>) -> Writer {
        self.tensors.push((name.into(), dims.to_vec(), kind, data));
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.pairs.len() as u64).to_le_bytes());
        file.extend(self.pairs.concat());
        let mut offset = 0u64;
        for (name, dims, kind, data) in &self.tensors {
            file.extend(text(name));
            file.extend((dims.len() as u32).to_le_bytes());
            file.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
            file.extend(kind.to_le_bytes());
            file.extend(offset.to_le_bytes());
            offset = (offset + data.len() as u64).next_multiple_of(32);
        }
        for (.., data) in &self.tensors {
            file.resize(file.len().next_multiple_of(32), 0);
            file.extend(data);
        }
        file
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn open(bytes: Vec<u8>) -> Result<Gguf, WeightsError> {
    let pages: Pages = Arc::new(bytes);
    Gguf::from_pages(vec![("test.gguf".into(), pages)])
}

fn refused(bytes: Vec<u8>) -> String {
    open(bytes).unwrap_err().to_string()
}

/// Two tensors and a value of every type.
fn whole() -> Writer {
    let list = [
        8u32.to_le_bytes().to_vec(),
        2u64.to_le_bytes().to_vec(),
        text("a"),
        text("b"),
    ]
    .concat();
    Writer::new()
        .number("some.number", 7)
        .pair("some.signed", 1, &[0xff])
        .pair("some.real", 12, &0.25f64.to_le_bytes())
        .pair("some.flag", 7, &[1])
        .pair("some.text", 8, &text("words"))
        .pair("some.list", 9, &list)
        .tensor("blocks", &[64, 3], 8, vec![5; 3 * 2 * 34])
        .tensor("stack", &[2, 3, 4], 0, vec![6; 96])
}

#[test]
fn metadata_and_tensors_are_what_the_file_says() {
    for version in [2, 3] {
        let file = Writer { version, ..whole() };
        let gguf = open(file.bytes()).unwrap();
        let metadata = gguf.metadata();
        assert_eq!(metadata.whole("some.number"), Some(7));
        assert_eq!(metadata.get("some.signed"), Some(&GgufValue::Signed(-1)));
        assert_eq!(metadata.whole("some.signed"), None);
        assert_eq!(metadata.real("some.real"), Some(0.25));
        assert_eq!(metadata.flag("some.flag"), Some(true));
        assert_eq!(metadata.text("some.text"), Some("words"));
        assert_eq!(metadata.list("some.list").unwrap().len(), 2);
        let blocks = gguf.get("blocks").unwrap();
        assert_eq!(blocks.dtype, FileType::Weight(DType::Q8_0));
        assert_eq!((&blocks.shape[..], blocks.bytes), (&[3, 64][..], 204));
        assert_eq!(gguf.bytes("blocks").unwrap(), [5; 204]);
        // The slowest axis comes last in the file.
        assert_eq!(gguf.get("stack").unwrap().shape, [4, 3, 2]);
        assert_eq!(gguf.bytes("stack").unwrap(), [6; 96]);
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = whole().bytes();
    for length in 0..bytes.len() {
        assert!(open(bytes[..length].to_vec()).is_err(), "{length} bytes");
    }
}

#[test]
fn counts_that_no_file_could_hold_take_no_memory() {
    let mut bytes = whole().bytes();
    for at in [8, 16] {
        for count in [u64::MAX, 1 << 40, 1000] {
            let kept = bytes[at..at + 8].to_vec();
            bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
            let error = refused(bytes.clone());
            assert!(error.contains("cut short"), "{error}");
            bytes[at..at + 8].copy_from_slice(&kept);
        }
    }
    let list = [0u32.to_le_bytes().to_vec(), u64::MAX.to_le_bytes().to_vec()].concat();
    let error = refused(Writer::new().pair("list", 9, &list).bytes());
    assert!(error.contains("values of a list"), "{error}");
    let nested = [9u32.to_le_bytes().to_vec(), 1u64.to_le_bytes().to_vec()].concat();
    let error = refused(Writer::new().pair("list", 9, &nested.repeat(9)).bytes());
    assert!(error.contains("within each other"), "{error}");
}

#[test]
fn what_is_wrong_is_said() {
    let tensor = |dims: &[u64], kind| Writer::new().tensor("t", dims, kind, vec![0; 64]).bytes();
    let mut version = whole().bytes();
    version[4] = 1;
    let mut magic = whole().bytes();
    magic[0] = b'X';
    let mut big = whole().bytes();
    big[4..8].copy_from_slice(&3u32.to_be_bytes());
    let twice = Writer::new().number("k", 1).number("k", 2).bytes();
    let same = Writer::new()
        .tensor("t", &[1], 0, vec![0; 4])
        .tensor("t", &[1], 0, vec![0; 4]);
    for (bytes, wanted) in [
        (version, "version 1"),
        (magic, "begin with GGUF"),
        (big, "big-endian"),
        (twice, "comes twice"),
        (same.bytes(), "comes twice"),
        (tensor(&[33], 8), "no whole blocks"),
        (tensor(&[u64::MAX, 3], 0), "not possible"),
        (tensor(&[1 << 40], 0), "beyond the end"),
        (tensor(&[4], 99), "number format 99"),
        (tensor(&[1, 1, 1, 1, 1], 0), "5 dimensions"),
        (
            Writer::new().number("general.alignment", 3).bytes(),
            "alignment is 3",
        ),
        (Writer::new().pair("k", 77, &[]).bytes(), "type 77"),
    ] {
        let error = refused(bytes);
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
}

/// Holes make a file as large as it claims to be, and memory would be what is claimed.
#[test]
fn claims_that_only_a_large_file_has_room_for_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.gguf");
    let counts = |tensors: u64, keys: u64| [tensors.to_le_bytes(), keys.to_le_bytes()].concat();
    let key = [counts(0, 1), (2u64 << 30).to_le_bytes().to_vec()].concat();
    for (claim, wanted) in [
        (key, "bytes of texts, and"),
        (counts(1 << 27, 0), "134217728 tensors, and"),
        (counts(0, 1 << 27), "134217728 keys, and"),
    ] {
        let header = [b"GGUF".as_slice(), &3u32.to_le_bytes(), &claim].concat();
        std::fs::write(&path, header).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(6 << 30).unwrap();
        let error = Gguf::open(&path).unwrap_err().to_string();
        assert!(
            error.contains(wanted) && error.contains("are read at most"),
            "{error}"
        );
    }
}

fn part(number: u32, count: u32, name: &str) -> Vec<u8> {
    Writer::new()
        .number("split.no", number)
        .number("split.count", count)
        .number("split.tensors.count", count)
        .tensor(name, &[8], 0, vec![number as u8; 32])
        .bytes()
}

fn write(folder: &Path, name: &str, bytes: Vec<u8>) -> std::path::PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn any_part_of_a_split_model_opens_all_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let first = write(folder.path(), "m-00001-of-00002.gguf", part(0, 2, "a"));
    let error = Gguf::open(&first).unwrap_err().to_string();
    assert!(error.contains("m-00002-of-00002.gguf"), "{error}");
    let second = write(folder.path(), "m-00002-of-00002.gguf", part(1, 2, "b"));
    for path in [first, second] {
        let gguf = Gguf::open(path).unwrap();
        assert_eq!(gguf.names().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(gguf.bytes("b").unwrap(), [1; 32]);
    }
    // A part under the name of another, and one alone.
    let wrong = write(folder.path(), "m-00002-of-00002.gguf", part(0, 2, "b"));
    let error = Gguf::open(wrong).unwrap_err().to_string();
    assert!(error.contains("part 1 of 2"), "{error}");
    let alone = write(folder.path(), "alone.gguf", part(0, 2, "a"));
    let error = Gguf::open(alone).unwrap_err().to_string();
    assert!(error.contains("part 1 of 1"), "{error}");
}
