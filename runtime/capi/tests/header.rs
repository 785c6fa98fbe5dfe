//! `include/hadal.h` is what cbindgen makes of the source, and `abi.txt` what a compiler makes
//! of the header. `HADAL_BLESS=1` writes both anew; what `abi.txt` had before must stay.

mod common;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn blesses() -> bool {
    std::env::var_os("HADAL_BLESS").is_some()
}

/// The header that the source says.
fn made() -> String {
    let config = cbindgen::Config::from_file(root().join("cbindgen.toml")).expect("its settings");
    let mut builder = cbindgen::Builder::new().with_config(config);
    for name in [
        "types", "error", "devices", "model", "engine", "session", "generate",
    ] {
        builder = builder.with_src(root().join(format!("src/{name}.rs")));
    }
    let mut bytes = Vec::new();
    builder.generate().expect("a header").write(&mut bytes);
    without_safety(&String::from_utf8(bytes).expect("text"))
}

/// Leaves out what the comments say to callers in Rust; the header's opening says it for C.
fn without_safety(header: &str) -> String {
    let (mut out, mut skips) = (String::new(), false);
    for line in header.lines() {
        match line.trim() {
            "* # Safety" => {
                skips = true;
                // The empty line before it.
                out.truncate(out.trim_end_matches([' ', '*', '\n']).len());
                out.push('\n');
            }
            "*/" => skips = false,
            _ => {}
        }
        if !skips {
            let _ = writeln!(out, "{}", line.trim_end());
        }
    }
    out
}

#[test]
fn the_header_is_made_of_the_source() {
    let path = root().join("include/hadal.h");
    let made = made();
    if blesses() {
        fs::write(&path, &made).expect("it can be written");
    }
    let stored = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        stored == made,
        "include/hadal.h is not what the source says; HADAL_BLESS=1 makes it anew"
    );
}

/// Every struct of the header with its fields.
fn structs(header: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for block in header.split("typedef struct {").skip(1) {
        let (body, rest) = block.split_once("\n}").expect("an end");
        let name = rest.split(';').next().expect("a name").trim().to_string();
        let fields = body.lines().filter(|line| line.trim_end().ends_with(';'));
        let name_of = |line: &str| {
            let line = line.trim_end().trim_end_matches(';');
            let last = line.rsplit([' ', '*']).next().expect("a name");
            last.to_string()
        };
        found.push((name, fields.map(name_of).collect()));
    }
    found
}

/// Constants of the header's enums.
fn constants(header: &str) -> Vec<String> {
    let lines = header.lines().map(str::trim);
    let lines = lines.filter(|line| line.starts_with("HADAL_") && line.contains(" = "));
    lines
        .map(|line| line.split(' ').next().expect("a name").to_string())
        .collect()
}

/// A program that prints the layout of everything, one fact a line.
fn probe(header: &str) -> String {
    let mut code = "#include <stdio.h>\n#include \"hadal.h\"\nint main(void) {\n".to_string();
    let mut line = |text: String| {
        let _ = writeln!(code, "    {text}");
    };
    for (name, fields) in structs(header) {
        for field in &fields {
            line(format!(
                "printf(\"field {name}.{field} %zu %zu\\n\", offsetof({name}, {field}), sizeof((({name} *)0)->{field}));"
            ));
        }
        if fields[0] != "size" {
            line(format!("printf(\"frozen {name} %zu\\n\", sizeof({name}));"));
        }
    }
    for name in constants(header) {
        line(format!("printf(\"constant {name} %d\\n\", (int){name});"));
    }
    code.push_str("    return 0;\n}\n");
    code
}

#[test]
fn nothing_that_a_program_was_compiled_against_changes() {
    let Some(cc) = common::cc("nothing_that_a_program_was_compiled_against_changes") else {
        return;
    };
    let folder = common::folder("abi");
    let source = folder.join("probe.c");
    let header = fs::read_to_string(root().join("include/hadal.h")).expect("the header");
    assert!(structs(&header).len() >= 13 && constants(&header).len() >= 30);
    fs::write(&source, probe(&header)).expect("it can be written");
    let program = folder.join("probe");
    cc.compile(&source, &program, &[]);
    let run = Command::new(&program).output().expect("it runs");
    let mut facts: BTreeSet<String> = String::from_utf8(run.stdout)
        .expect("text")
        .lines()
        .map(str::to_string)
        .collect();
    for symbol in common::symbols() {
        facts.insert(format!("symbol {symbol}"));
    }
    let of_functions = declarations(&header);
    facts.extend(of_functions.map(|code| format!("function {code}")));
    facts.extend(callbacks(&header).map(|code| format!("callback {code}")));
    let path = root().join("abi.txt");
    let stored = fs::read_to_string(&path).unwrap_or_default();
    let stored: BTreeSet<String> = stored.lines().map(str::to_string).collect();
    let gone: Vec<_> = stored.difference(&facts).collect();
    assert!(
        gone.is_empty(),
        "programs that are compiled break: {gone:#?}"
    );
    if blesses() {
        let text: String = facts.iter().map(|fact| format!("{fact}\n")).collect();
        fs::write(&path, text).expect("it can be written");
        return;
    }
    let new: Vec<_> = facts.difference(&stored).collect();
    assert!(
        new.is_empty(),
        "not in abi.txt; HADAL_BLESS=1 adds it: {new:#?}"
    );
}

/// The header in pieces between empty lines: what each says of itself, and its code in one line.
fn pieces(header: &str) -> impl Iterator<Item = (&str, String)> {
    header.split("\n\n").map(|piece| {
        let (said, code) = piece.split_once("*/").unwrap_or(("", piece));
        let words: Vec<&str> = code.split_whitespace().collect();
        (said, words.join(" "))
    })
}

/// Every function as C declares it.
fn declarations(header: &str) -> impl Iterator<Item = String> {
    let code = pieces(header).map(|(_, code)| code);
    code.filter(|code| name_of(code).starts_with("hadal_"))
}

/// Every type of a callback.
fn callbacks(header: &str) -> impl Iterator<Item = String> {
    let code = pieces(header).map(|(_, code)| code);
    code.filter(|code| code.starts_with("typedef") && code.contains("(*"))
}

/// The name of the function that a declaration is of.
fn name_of(code: &str) -> &str {
    let head = code.split('(').next().unwrap_or_default();
    head.rsplit([' ', '*']).next().unwrap_or_default()
}

#[test]
fn the_header_declares_what_the_library_exports() {
    let header = fs::read_to_string(root().join("include/hadal.h")).expect("the header");
    let mut declared = BTreeSet::new();
    for (said, code) in pieces(&header) {
        let name = name_of(&code);
        if name.starts_with("hadal_") {
            declared.insert(name.to_string());
            assert!(said.contains("/**"), "{name} says nothing");
        }
    }
    let exported = common::symbols();
    if !exported.is_empty() {
        assert_eq!(declared, exported);
    }
}
