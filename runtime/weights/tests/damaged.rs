//! Whatever is wrong with a file is said with the file's and the tensor's name.

mod common;

use std::fs;
use std::path::Path;

use common::{file_of, open, safetensors, tensor};
use hadal_weights::{Checkpoint, TensorSource, WeightsError};

const NAME: &str = "model.safetensors";

/// The message for a single file of these bytes.
fn refused(bytes: Vec<u8>) -> String {
    let error = open(&[(NAME, bytes)]).expect_err("the file is damaged");
    let text = error.to_string();
    assert!(text.contains(NAME) && text.contains("again"), "{text}");
    text
}

fn entry(dtype: &str, shape: &str, first: u64, end: u64) -> String {
    format!("{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[{first},{end}]}}")
}

#[test]
fn a_whole_file_gives_its_tensors() {
    let tensors = [
        tensor("b", "BF16", &[2, 3], 1),
        tensor("a", "F8_E4M3", &[5], 2),
        tensor("i", "I64", &[1], 3),
    ];
    let source = common::checkpoint(&tensors);
    assert_eq!(source.names().collect::<Vec<_>>(), ["b", "a", "i"]);
    for (name, _, shape, data) in &tensors {
        assert_eq!(source.bytes(name).unwrap(), data.as_slice());
        assert_eq!(&source.get(name).unwrap().shape, shape);
    }
    let missing = source.bytes("c").unwrap_err();
    assert!(
        matches!(&missing, WeightsError::NoTensor { file, tensor } if file == NAME && tensor == "c"),
        "{missing}"
    );
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = safetensors(&[tensor("a", "BF16", &[4, 4], 0), tensor("b", "F32", &[3], 0)]);
    for length in 0..whole.len() {
        refused(whole[..length].to_vec());
    }
    let mut longer = whole.clone();
    longer.push(0);
    assert!(refused(longer).contains("last 1 bytes"));
}

#[test]
fn a_header_longer_than_the_file_or_the_format_is_refused() {
    for length in [1000u64, 100_000_001, u64::MAX] {
        let mut file = length.to_le_bytes().to_vec();
        file.extend_from_slice(b"{}");
        assert!(refused(file).contains(&length.to_string()));
    }
}

#[test]
fn offsets_that_overlap_leave_gaps_or_point_outside_are_refused() {
    let two = |a: (u64, u64), b: (u64, u64)| {
        let json = format!(
            "{{\"a\":{},\"b\":{}}}",
            entry(
                "F8_E4M3",
                &format!("[{}]", a.1 as i64 - a.0 as i64),
                a.0,
                a.1
            ),
            entry(
                "F8_E4M3",
                &format!("[{}]", b.1 as i64 - b.0 as i64),
                b.0,
                b.1
            )
        );
        refused(file_of(&json, &[0; 16]))
    };
    assert!(two((0, 9), (8, 16)).contains("tensor b: its data overlaps that of a"));
    assert!(two((0, 7), (8, 16)).contains("tensor b: 1 bytes before"));
    assert!(two((0, 8), (8, 17)).contains("tensor b"));
    assert!(two((1, 8), (8, 16)).contains("tensor a"));
    let backwards = format!("{{\"a\":{}}}", entry("F8_E4M3", "[4]", 8, 4));
    assert!(refused(file_of(&backwards, &[0; 16])).contains("tensor a"));
    let huge = format!(
        "{{\"a\":{}}}",
        entry("F8_E4M3", "[4]", u64::MAX - 3, u64::MAX)
    );
    assert!(refused(file_of(&huge, &[0; 16])).contains("tensor a"));
}

#[test]
fn a_shape_that_does_not_match_its_bytes_is_refused() {
    let one = |dtype: &str, shape: &str| {
        refused(file_of(
            &format!("{{\"a\":{}}}", entry(dtype, shape, 0, 16)),
            &[0; 16],
        ))
    };
    assert!(one("BF16", "[4, 4]").contains("takes 32 bytes, but 16"));
    assert!(one("F32", "[2]").contains("takes 8 bytes"));
    assert!(one("F32", "[4294967296, 4294967296, 4294967296]").contains("not possible"));
    assert!(one("F32", "[18446744073709551615]").contains("not possible"));
    assert!(one("F4", "[3]").contains("not possible"));
    assert!(one("F8_E4M3", "[1,1,1,1,1,1,1,1,16]").contains("9 dimensions"));
    assert!(one("Q7_K", "[16]").contains("`Q7_K` is unknown"));
}

#[test]
fn a_header_that_is_not_the_formats_is_refused() {
    for json in [
        "",
        "[]",
        "null",
        "{",
        "{}x",
        "{\"a\":1}",
        "{\"a\":{}}",
        "\u{0}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,0]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,0]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0,0]}}",
    ] {
        refused(file_of(json, &[]));
    }
    refused(file_of(&"[".repeat(100_000), &[]));
    refused([&4u64.to_le_bytes()[..], &[0xFF, 0xFE, 0xFD, 0xFC]].concat());
}

#[test]
fn a_name_that_comes_twice_is_refused() {
    let json = format!("{{\"a\":{0},\"a\":{0}}}", entry("F8_E4M3", "[0]", 0, 0));
    assert!(refused(file_of(&json, &[])).contains("tensor a: its name comes twice"));
    let file = safetensors(&[tensor("a", "BF16", &[2], 0)]);
    let error = open(&[("one.safetensors", file.clone()), ("two.safetensors", file)]).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("two.safetensors, tensor a: it is in one.safetensors too"),
        "{text}"
    );
}

/// Writes a folder with these files and opens it.
fn folder(files: &[(&str, &[u8])]) -> Result<Checkpoint, WeightsError> {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    Checkpoint::open(folder.path())
}

fn index(entries: &[(&str, &str)]) -> String {
    let entries: Vec<String> = entries
        .iter()
        .map(|(tensor, file)| format!("\"{tensor}\":\"{file}\""))
        .collect();
    format!(
        "{{\"metadata\":{{\"total_size\":1}},\"weight_map\":{{{}}}}}",
        entries.join(",")
    )
}

const INDEX: &str = "model.safetensors.index.json";

#[test]
fn an_index_joins_files_of_any_name() {
    let (a, b) = (tensor("a", "BF16", &[2], 0), tensor("b", "F32", &[1], 9));
    let (one, two) = (
        safetensors(std::slice::from_ref(&a)),
        safetensors(std::slice::from_ref(&b)),
    );
    let names = index(&[
        ("a", "model-00001-of-000163.safetensors"),
        ("b", "x.safetensors"),
    ]);
    let source = folder(&[
        (INDEX, names.as_bytes()),
        ("model-00001-of-000163.safetensors", &one),
        ("x.safetensors", &two),
        ("unrelated.safetensors", b"not read"),
    ])
    .unwrap();
    assert_eq!(
        (source.bytes("a").unwrap(), source.bytes("b").unwrap()),
        (&a.3[..], &b.3[..])
    );
    assert_eq!(source.shards().len(), 2);
}

#[test]
fn an_index_that_names_a_file_outside_its_folder_is_refused() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("secret.safetensors");
    fs::write(&target, safetensors(&[tensor("a", "BF16", &[2], 0)])).unwrap();
    let absolute = target.display().to_string();
    for name in [
        absolute.as_str(),
        "../secret.safetensors",
        "sub/x.safetensors",
        "./x.safetensors",
        "..\\\\x.safetensors",
        "C:x.safetensors",
        "..",
        "",
        "x.bin",
        ".safetensors",
        "a\\u0000.safetensors",
        "a\\n.safetensors",
    ] {
        let text = folder(&[(INDEX, index(&[("a", name)]).as_bytes())])
            .unwrap_err()
            .to_string();
        assert!(
            text.contains(INDEX) && text.contains("tensor a"),
            "{name}: {text}"
        );
    }
}

#[test]
fn an_index_that_does_not_fit_its_files_is_refused() {
    let file = safetensors(&[tensor("a", "BF16", &[2], 0)]);
    let open = |index: &str| {
        folder(&[
            (INDEX, index.as_bytes()),
            ("x.safetensors", &file),
            ("y.safetensors", b""),
        ])
        .unwrap_err()
        .to_string()
    };
    let missing = open(&index(&[("a", "x.safetensors"), ("b", "x.safetensors")]));
    assert!(missing.contains("x.safetensors, tensor b"), "{missing}");
    let absent = open(&index(&[("a", "z.safetensors")]));
    assert!(absent.contains("z.safetensors cannot be read"), "{absent}");
    assert!(
        open(&index(&[("a", "y.safetensors")]))
            .contains("y.safetensors is damaged: it has 0 bytes")
    );
    for text in [
        "",
        "{}",
        "[]",
        "{\"weight_map\":{}}",
        "{\"weight_map\":{\"a\":1}}",
    ] {
        assert!(open(text).contains(INDEX), "{text}");
    }
}

#[test]
fn a_folder_without_weights_says_what_was_looked_for() {
    let text = folder(&[]).unwrap_err().to_string();
    assert!(text.contains(INDEX) && text.contains(NAME), "{text}");
    let nowhere = Checkpoint::open(Path::new("/nowhere/at/all"))
        .unwrap_err()
        .to_string();
    assert!(nowhere.contains("/nowhere/at/all"), "{nowhere}");
}

#[test]
fn bytes_of_the_program_are_used_where_they_are() {
    static FILE: &[u8] = &[2, 0, 0, 0, 0, 0, 0, 0, b'{', b'}'];
    let source = Checkpoint::from_static(&[("embedded", FILE)]).unwrap();
    assert_eq!(source.shards()[0].bytes().as_ptr(), FILE.as_ptr());
}
