//! Files that are none, never end, or are not where tensors are looked for.

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use common::{safetensors, tensor};
use hadal_device::Pages;
use hadal_weights::{
    Checkpoint, Declared, TensorSource, WeightsError, bind, read_bounded, read_text,
};

const NAME: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const LINE: &str = r#"{"weight_map": {"a": "x.safetensors"}}"#;

fn refused(folder: &Path) -> String {
    Checkpoint::open(folder).unwrap_err().to_string()
}

/// A pipe that nobody writes to: opening it would wait for ever.
#[cfg(unix)]
fn make_pipe(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status();
    assert!(made.unwrap().success());
}

#[cfg(unix)]
#[test]
fn folders_pipes_and_devices_are_refused_in_place_of_any_file() {
    type Make = fn(&Path);
    let makers: [(&str, Make); 3] = [
        ("folder", |path| fs::create_dir(path).unwrap()),
        ("pipe", make_pipe),
        ("device", |path| {
            std::os::unix::fs::symlink("/dev/zero", path).unwrap()
        }),
    ];
    for (kind, make) in makers {
        for (name, index) in [(INDEX, false), (NAME, false), ("x.safetensors", true)] {
            let place = tempfile::tempdir().unwrap();
            if index {
                fs::write(place.path().join(INDEX), LINE).unwrap();
            }
            make(&place.path().join(name));
            let text = refused(place.path());
            assert!(
                text.contains(name) && text.contains("not a plain file"),
                "{kind}: {text}"
            );
            let read = read_bounded(&place.path().join(name), 9)
                .unwrap_err()
                .to_string();
            assert!(read.contains("not a plain file"), "{kind}: {read}");
        }
    }
}

#[cfg(unix)]
#[test]
fn links_to_files_are_followed_and_broken_ones_named() {
    let place = tempfile::tempdir().unwrap();
    let link = place.path().join(NAME);
    std::os::unix::fs::symlink(place.path().join("blob"), &link).unwrap();
    let text = refused(place.path());
    assert!(
        text.contains(NAME) && text.contains("cannot be read"),
        "{text}"
    );
    fs::write(
        place.path().join("blob"),
        safetensors(&[tensor("a", "F32", &[1], 1)]),
    )
    .unwrap();
    assert!(Checkpoint::open(place.path()).unwrap().get("a").is_some());
}

#[test]
fn a_file_is_read_up_to_its_bound_and_refused_beyond() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("config.json");
    fs::write(&path, "12345").unwrap();
    assert_eq!(read_bounded(&path, 5).unwrap(), b"12345");
    assert_eq!(read_text(&path, u64::MAX).unwrap(), "12345");
    let text = read_text(&path, 4).unwrap_err().to_string();
    assert!(text.contains("5 bytes or more, and 4 are"), "{text}");
    // A file with a hole is as long as it says, and is not read to find out.
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_len(1 << 40).unwrap();
    let text = read_bounded(&path, 4 << 20).unwrap_err().to_string();
    assert!(text.contains("1099511627776 bytes"), "{text}");
    fs::write(&path, [0xFF, 0xFE]).unwrap();
    assert!(
        read_text(&path, 5)
            .unwrap_err()
            .to_string()
            .contains("no text")
    );
    assert!(read_text(&place.path().join("none"), 5).is_err());
}

/// The system says 0 bytes for these, whatever is in them.
#[cfg(target_os = "linux")]
#[test]
fn a_file_that_is_longer_than_it_says_is_bounded_too() {
    let file = Path::new("/proc/self/status");
    assert!(read_bounded(file, 1 << 20).unwrap().len() > 10);
    assert!(read_bounded(file, 10).is_err());
}

#[test]
fn missing_tensors_name_the_file_or_the_index_they_were_looked_for_in() {
    let place = tempfile::tempdir().unwrap();
    let file = safetensors(&[tensor("a", "F32", &[1], 1)]);
    let declared = [
        Declared::new("a", &[1]),
        Declared::new("b", &[1]),
        Declared::table("c.{}", 2, [1, 1]),
    ];
    let looked_in = |name: &str| {
        let source = Checkpoint::open(place.path()).unwrap();
        let wanted = place.path().join(name).display().to_string();
        let missing = source.bytes("b").unwrap_err().to_string();
        assert!(missing.contains(&wanted), "{missing}");
        let WeightsError::Mismatch { problems, .. } = bind(&declared, &source).unwrap_err() else {
            panic!("all are there")
        };
        let names: Vec<&str> = problems.iter().map(|p| p.tensor.as_str()).collect();
        assert_eq!(names, ["b", "c.{}"]);
        for problem in &problems {
            assert_eq!(problem.file.as_deref(), Some(wanted.as_str()), "{problem}");
        }
    };
    fs::write(place.path().join(NAME), &file).unwrap();
    looked_in(NAME);
    fs::write(place.path().join("x.safetensors"), &file).unwrap();
    fs::write(place.path().join(INDEX), LINE).unwrap();
    looked_in(INDEX);
    let two = [("one", file), ("two", safetensors(&[]))];
    assert_eq!(common::open(&two).unwrap().origin(), "one or 1 files more");
}

#[test]
fn more_files_than_any_checkpoint_has_are_refused() {
    let empty: Pages = Arc::new(safetensors(&[]));
    let files = |count: usize| {
        let pages = (0..count).map(|number| (format!("{number}.safetensors"), empty.clone()));
        Checkpoint::from_pages(pages.collect())
    };
    assert_eq!(files(16_384).unwrap().shards().len(), 16_384);
    let error = files(16_385).unwrap_err();
    assert!(
        matches!(
            error,
            WeightsError::TooManyFiles {
                files: 16_385,
                limit: 16_384
            }
        ),
        "{error}"
    );
}
