//! What programs are compiled against: `api.txt` lists every public name of this crate with its
//! signature, fields, variants, methods and traits, also of types that come from the crates below.
//! What it lists must stay until the version says otherwise; `HADAL_BLESS=1` writes it anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use quote::{ToTokens, quote};
use syn::{Attribute, ImplItem, Item, UseTree, Visibility};

/// Lines of each name.
type Names = BTreeMap<String, BTreeSet<String>>;

/// Tokens as text, without the spaces that nobody writes.
fn text(tokens: impl ToTokens) -> String {
    let mut text = tokens.to_token_stream().to_string();
    for (spaced, written) in [
        (" :: ", "::"),
        (":: ", "::"),
        (" : ", ": "),
        (" ,", ","),
        (" < ", "<"),
        (" >", ">"),
        ("& ", "&"),
        (" (", "("),
        ("( ", "("),
        (" )", ")"),
        (" ;", ";"),
        (" ?", "?"),
        ("# ", "#"),
    ] {
        text = text.replace(spaced, written);
    }
    text
}

/// A signature as callers see it: what a function does with its arguments is its own.
fn signature(of: &syn::Signature) -> String {
    let mut seen = of.clone();
    for input in &mut seen.inputs {
        if let syn::FnArg::Typed(it) = input
            && let syn::Pat::Ident(name) = &mut *it.pat
        {
            name.mutability = None;
        }
    }
    text(seen).replace("(mut self", "(self")
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// Whether it is there in tests alone, or by a feature.
fn is_conditional(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|it| it.path().is_ident("cfg"))
}

/// What derive macros implement, and whether more may come.
fn derived(name: &str, attributes: &[Attribute]) -> Vec<String> {
    let mut lines = Vec::new();
    for attribute in attributes {
        if attribute.path().is_ident("derive") {
            let _ = attribute.parse_nested_meta(|meta| {
                lines.push(format!("impl {} for {name}", text(meta.path)));
                Ok(())
            });
        } else if attribute.path().is_ident("non_exhaustive") {
            lines.push(format!("#[non_exhaustive] {name}"));
        }
    }
    lines
}

fn implementation(it: &syn::ItemImpl) -> (String, Vec<String>) {
    let of = text(&it.self_ty);
    let name = of.split('<').next().unwrap_or(&of).trim().to_string();
    let lines = match &it.trait_ {
        Some((path, _)) => vec![format!(
            "impl{} {} for {of}",
            text(&it.generics),
            text(path)
        )],
        None => {
            let functions = it.items.iter().filter_map(|item| match item {
                ImplItem::Fn(it) if is_public(&it.vis) => Some(&it.sig),
                _ => None,
            });
            functions
                .map(|it| format!("{name}::{}", signature(it)))
                .collect()
        }
    };
    (name, lines)
}

/// A name with its lines, of an item that gives one.
fn described(item: &Item) -> Option<(String, Vec<String>)> {
    Some(match item {
        Item::Struct(it) if is_public(&it.vis) => {
            let name = it.ident.to_string();
            let mut lines = derived(&name, &it.attrs);
            lines.push(format!("struct {name}{}", text(&it.generics)));
            let fields = it.fields.iter().filter(|field| is_public(&field.vis));
            lines.extend(fields.enumerate().map(|(index, field)| {
                let field_name = field.ident.as_ref().map_or(index.to_string(), text);
                format!("{name}.{field_name}: {}", text(&field.ty))
            }));
            (name, lines)
        }
        Item::Enum(it) if is_public(&it.vis) => {
            let name = it.ident.to_string();
            let mut lines = derived(&name, &it.attrs);
            lines.push(format!("enum {name}{}", text(&it.generics)));
            lines.extend(it.variants.iter().map(|variant| {
                let fields = variant.fields.iter().map(|field| {
                    let field_name = field.ident.as_ref().map(|name| quote!(#name:));
                    format!("{} {}", text(field_name), text(&field.ty))
                        .trim()
                        .to_string()
                });
                let fields: Vec<String> = fields.collect();
                format!("{name}::{}({})", variant.ident, fields.join(", "))
            }));
            (name, lines)
        }
        Item::Fn(it) if is_public(&it.vis) => (it.sig.ident.to_string(), vec![signature(&it.sig)]),
        Item::Const(it) if is_public(&it.vis) => {
            let name = it.ident.to_string();
            let line = format!("const {name}: {}", text(&it.ty));
            (name, vec![line])
        }
        Item::Type(it) if is_public(&it.vis) => {
            let name = it.ident.to_string();
            let line = format!("type {name}{} = {}", text(&it.generics), text(&it.ty));
            (name, vec![line])
        }
        Item::Trait(it) if is_public(&it.vis) => {
            let name = it.ident.to_string();
            let mut lines = vec![format!("trait {name}: {}", text(&it.supertraits))];
            lines.extend(it.items.iter().filter_map(|item| match item {
                syn::TraitItem::Fn(it) => {
                    let ended = if it.default.is_some() { " { .. }" } else { "" };
                    Some(format!("{name}::{}{ended}", signature(&it.sig)))
                }
                _ => None,
            }));
            (name, lines)
        }
        Item::Impl(it) => implementation(it),
        _ => return None,
    })
}

/// Everything public in the files of a folder and in those below.
fn names(folder: &Path, found: &mut Names) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            names(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs") {
            let source = fs::read_to_string(&path).expect("a file");
            let file = syn::parse_file(&source).expect("Rust");
            for (name, lines) in file.items.iter().filter_map(described) {
                found.entry(name).or_default().extend(lines);
            }
        }
    }
}

/// What a `pub use` gives out: where from, under which name there and here.
fn given(tree: &UseTree, from: Option<&str>, out: &mut Vec<[String; 3]>) {
    let from_or = |own: &str| from.unwrap_or(own).to_string();
    match tree {
        UseTree::Path(it) => given(&it.tree, Some(&from_or(&it.ident.to_string())), out),
        UseTree::Group(it) => it.items.iter().for_each(|tree| given(tree, from, out)),
        UseTree::Name(it) => {
            let name = it.ident.to_string();
            out.push([from_or(""), name.clone(), name]);
        }
        UseTree::Rename(it) => {
            out.push([from_or(""), it.ident.to_string(), it.rename.to_string()]);
        }
        _ => panic!("lib.rs names what it gives out"),
    }
}

fn listing() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut own, mut device, mut engine, mut tokens) = Default::default();
    names(&root.join("src"), &mut own);
    names(&root.join("../device/src"), &mut device);
    names(&root.join("../engine/src"), &mut engine);
    names(&root.join("../tokens/src"), &mut tokens);
    names(&root.join("../weights/src"), &mut engine);
    let lib = fs::read_to_string(root.join("src/lib.rs")).expect("a file");
    let (mut list, mut exports) = (BTreeSet::new(), Vec::new());
    for item in syn::parse_file(&lib).expect("Rust").items {
        match &item {
            Item::Use(it) if is_public(&it.vis) => given(&it.tree, None, &mut exports),
            Item::Struct(it) if is_conditional(&it.attrs) => {}
            item => list.extend(described(item).into_iter().flat_map(|(_, lines)| lines)),
        }
    }
    for [from, there, here] in exports {
        let all: &Names = match from.as_str() {
            "hadal_device" => &device,
            "hadal_engine" | "hadal_weights" if engine.contains_key(&there) => &engine,
            "hadal_engine" => &tokens,
            _ => &own,
        };
        let lines = all.get(&there);
        let lines = lines.unwrap_or_else(|| panic!("{from} has no {there}"));
        list.extend(lines.iter().cloned());
        if there != here {
            list.insert(format!("{there} is called {here}"));
        }
    }
    list
}

#[test]
fn what_programs_were_compiled_against_stays() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("api.txt");
    let now = listing();
    assert!(now.len() > 200, "{}", now.len());
    let version = format!("version {}", env!("CARGO_PKG_VERSION"));
    let text: Vec<&str> = std::iter::once(version.as_str())
        .chain(now.iter().map(String::as_str))
        .collect();
    let known = fs::read_to_string(&path).unwrap_or_default();
    let is_new_version = !known.starts_with(&format!("{version}\n"));
    let gone: Vec<&str> = known
        .lines()
        .skip(1)
        .filter(|it| !now.contains(*it))
        .collect();
    assert!(
        is_new_version || gone.is_empty(),
        "programs may use this, so it may change only with the version in Cargo.toml: {gone:#?}"
    );
    if std::env::var_os("HADAL_BLESS").is_some() {
        fs::write(&path, text.join("\n") + "\n").expect("it can be written");
        return;
    }
    let new: Vec<&&str> = text
        .iter()
        .filter(|line| !known.lines().any(|it| it == **line))
        .collect();
    assert!(
        new.is_empty(),
        "not in api.txt; HADAL_BLESS=1 adds it: {new:#?}"
    );
}
