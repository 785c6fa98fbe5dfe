//! The measures: length of files, functions and shaders, a head on every file, no unfinished
//! work, `unsafe` and printing only where they belong, no dead shader.
//!
//! [`ALLOWED`] lists the known sinners; it may only shrink, and an entry that is no longer
//! needed is a complaint itself.

use crate::source::{code_only, functions};
use crate::{Complaint, File};

/// Longest Rust file, in lines.
const FILE_LINES: usize = 500;
/// Longest function.
const FUNCTION_LINES: usize = 70;
/// Longest shader.
const SHADER_LINES: usize = 200;

/// Functions that may be longer: file, name, reason.
const ALLOWED: &[(&str, &str, &str)] = &[
    (
        "runtime/graph/tests/rules.rs",
        "legal",
        "a table with an entry for each operation",
    ),
    (
        "runtime/tokens/tests/sampling.rs",
        "options_outside_their_range_are_named",
        "a table of options",
    ),
];

/// Folders whose crates talk to drivers, to the processor itself or to C, and single files
/// that map memory.
const UNSAFE_PLACES: &[&str] = &[
    "backends/",
    "runtime/capi/",
    "runtime/weights/src/map.rs",
    "runtime/weights/src/lost_pages.rs",
    "runtime/weights/src/into_memory.rs",
];

/// Crates that other programs link: they must not print.
const LIBRARIES: &[&str] = &["runtime/", "backends/", "shaders/src/", "models/"];

/// Marks of unfinished work. Split, so that this file does not complain about itself.
const UNFINISHED: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X:"),
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("db", "g!("),
];

fn complaint(file: &File, line: usize, text: impl Into<String>) -> Complaint {
    Complaint {
        path: file.path.clone(),
        line,
        text: text.into(),
    }
}

/// Everything that can be said of one file alone.
pub(crate) fn of_file(file: &File) -> Vec<Complaint> {
    let mut found = unfinished(file);
    let ending = file.path.rsplit('.').next().unwrap_or_default();
    match ending {
        "rs" => {
            found.extend(too_long(file, FILE_LINES));
            found.extend(rust(file));
        }
        "wgsl" | "comp" | "glsl" => found.extend(too_long(file, SHADER_LINES)),
        "py" => found.extend(too_long(file, FILE_LINES)),
        _ => {}
    }
    found.extend(headless(file, ending));
    found
}

fn too_long(file: &File, limit: usize) -> Option<Complaint> {
    let lines = file.text.lines().count();
    (lines > limit).then(|| complaint(file, 0, format!("{lines} lines; the measure is {limit}")))
}

fn unfinished(file: &File) -> Vec<Complaint> {
    let mut found = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        for mark in UNFINISHED.iter().filter(|mark| line.contains(**mark)) {
            found.push(complaint(
                file,
                index + 1,
                format!("unfinished work: {mark}"),
            ));
        }
    }
    found
}

/// Every source opens with a comment that says what it is.
fn headless(file: &File, ending: &str) -> Option<Complaint> {
    let mut lines = file.text.lines().filter(|line| !line.starts_with("#!/"));
    let first = lines.find(|line| !line.trim().is_empty()).unwrap_or("");
    let marks: &[&str] = match ending {
        "rs" => &["//!"],
        "wgsl" | "comp" | "glsl" => &["//"],
        "py" => &["\"\"\"", "#"],
        "sh" | "md" => &["#"],
        _ => return None,
    };
    let headed = marks.iter().any(|mark| first.starts_with(mark));
    (!headed).then(|| complaint(file, 1, format!("no opening comment ({})", marks[0])))
}

fn rust(file: &File) -> Vec<Complaint> {
    let code = code_only(&file.text);
    let mut found = Vec::new();
    for function in functions(&code) {
        let lines = function.lines();
        if lines > FUNCTION_LINES && !is_allowed(&file.path, &function.name) {
            let text = format!(
                "function {} has {lines} lines; the measure is {FUNCTION_LINES}",
                function.name
            );
            found.push(complaint(file, function.first, text));
        }
    }
    let may_be_unsafe = UNSAFE_PLACES
        .iter()
        .any(|place| file.path.starts_with(place));
    let in_tests = ["/tests/", "/tests.rs", "/examples/"]
        .iter()
        .any(|part| file.path.contains(part));
    let is_library = LIBRARIES.iter().any(|place| file.path.starts_with(place)) && !in_tests;
    let tests_from = code
        .find("#[cfg(test)]")
        .map_or(usize::MAX, |at| code[..at].matches('\n').count());
    for (index, line) in code.lines().enumerate() {
        if !may_be_unsafe && has_word(line, "unsafe") {
            found.push(complaint(file, index + 1, "unsafe belongs into backends"));
        }
        let prints = ["print!(", "println!("]
            .iter()
            .any(|call| line.contains(call));
        if is_library && index < tests_from && prints {
            found.push(complaint(file, index + 1, "a library must not print"));
        }
    }
    found
}

fn has_word(line: &str, word: &str) -> bool {
    let mut words = line.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    words.any(|found| found == word)
}

fn is_allowed(path: &str, name: &str) -> bool {
    ALLOWED
        .iter()
        .any(|(file, function, _)| *file == path && *function == name)
}

/// Entries of [`ALLOWED`] whose function is gone or short by now.
pub(crate) fn stale_allowances(files: &[File]) -> Vec<Complaint> {
    let needed = |path: &str, name: &str| {
        let file = files.iter().find(|file| file.path == path);
        file.is_some_and(|file| {
            let all = functions(&code_only(&file.text));
            all.iter()
                .any(|f| f.name == name && f.lines() > FUNCTION_LINES)
        })
    };
    let stale = ALLOWED.iter().filter(|(path, name, _)| !needed(path, name));
    let complain = |(path, name, _): &(&str, &str, &str)| Complaint {
        path: (*path).to_string(),
        line: 0,
        text: format!("{name} needs no allowance any more; remove it from the list"),
    };
    stale.map(complain).collect()
}

/// Shaders that no row and no other shader names.
pub(crate) fn unused_shaders(files: &[File]) -> Vec<Complaint> {
    let in_shaders = |file: &&File| file.path.starts_with("shaders/");
    let sources: Vec<&File> = files.iter().filter(in_shaders).collect();
    let mut found = Vec::new();
    for file in sources.iter().filter(|file| file.path.ends_with(".wgsl")) {
        let name = file.path.rsplit('/').next().unwrap_or_default();
        let stem = name.trim_end_matches(".wgsl");
        let used = if file.path.contains("/shared/") {
            sources
                .iter()
                .any(|other| other.text.lines().any(|line| imports(line, stem)))
        } else {
            let quoted = format!("\"{stem}\"");
            let rows = |other: &&&File| other.path.ends_with("_rows.rs");
            sources
                .iter()
                .filter(rows)
                .any(|other| other.text.contains(&quoted))
        };
        if !used {
            found.push(complaint(
                file,
                0,
                "no kernel row and no shader uses this file",
            ));
        }
    }
    found
}

/// `#import stem` or `#import stem as name`.
fn imports(line: &str, stem: &str) -> bool {
    let rest = line.trim().strip_prefix("#import ");
    rest.and_then(|rest| rest.split_whitespace().next()) == Some(stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: String) -> File {
        File {
            path: path.into(),
            text,
        }
    }

    #[test]
    fn each_measure_is_noticed() {
        let long = format!(
            "//! Head.\nfn f() {{\n{}}}\n",
            "    g();\n".repeat(FUNCTION_LINES)
        );
        let cases = [
            ("tools/a.rs", long, "function f has"),
            ("tools/b.rs", "fn f() {}\n".into(), "no opening comment"),
            (
                "tools/c.rs",
                format!("//! Head.\n{}", "\n".repeat(FILE_LINES)),
                "lines; the measure",
            ),
            (
                "models/d.rs",
                "//! Head.\nfn f() { println!(\"x\"); }\n".into(),
                "must not print",
            ),
            (
                "models/e.rs",
                "//! Head.\nunsafe fn f() {}\n".into(),
                "unsafe belongs",
            ),
            (
                "tools/f.py",
                format!("# {}: later\n", UNFINISHED[0]),
                "unfinished work",
            ),
        ];
        for (path, text, expected) in cases {
            let found = of_file(&file(path, text));
            let told = found
                .iter()
                .any(|complaint| complaint.text.contains(expected));
            assert!(told, "{path}: {expected:?} is not among {found:?}");
        }
        let clean = "//! Head.\nfn f() { let x = \"unsafe println!(\"; }\n";
        assert_eq!(of_file(&file("models/g.rs", clean.into())), []);
    }

    #[test]
    fn a_shader_that_nothing_names_is_dead() {
        let shader = |path: &str| file(path, "// Head.\n#import used as u\n".into());
        let rows = file("shaders/src/wgsl_rows.rs", "//! x\n\"kernel\"".into());
        let files = [
            shader("shaders/wgsl/kernel.wgsl"),
            shader("shaders/wgsl/shared/used.wgsl"),
            shader("shaders/wgsl/shared/dead.wgsl"),
            shader("shaders/wgsl/gone.wgsl"),
            rows,
        ];
        let found = unused_shaders(&files);
        let dead: Vec<&str> = found
            .iter()
            .map(|complaint| complaint.path.as_str())
            .collect();
        assert_eq!(
            dead,
            ["shaders/wgsl/shared/dead.wgsl", "shaders/wgsl/gone.wgsl"]
        );
    }
}
