//! The bill of materials names what cargo links.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use xtask::{licences, sbom};

#[test]
fn a_bill_of_materials_names_all_that_is_linked() {
    if !sbom::can() {
        println!("NOT RUN: a_bill_of_materials_names_all_that_is_linked, no cargo-cyclonedx");
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for package in ["hadal-cli", "hadal-capi", "hadal-desktop"] {
        let text = sbom::make(&root, package).expect("it is made");
        let bill: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(bill["bomFormat"], "CycloneDX");
        assert_eq!(bill["metadata"]["component"]["name"], package);
        let components = bill["components"].as_array().expect("a list");
        let word = |of: &Value, key: &str| of[key].as_str().unwrap_or_default().to_string();
        let named: BTreeSet<(String, String)> = components
            .iter()
            .chain([&bill["metadata"]["component"]])
            .map(|of| (word(of, "name"), word(of, "version")))
            .collect();
        let linked = licences::linked(&root, package).expect("cargo tells");
        assert!(linked.len() > 100);
        let lacking: Vec<_> = linked.difference(&named).collect();
        assert!(lacking.is_empty(), "{package}: {lacking:?}");
        // Features that only other members of the workspace ask for bring a few more.
        let more: Vec<_> = named.difference(&linked).collect();
        assert!(more.len() < 20, "{package}: {more:?}");
        let unlicensed = components.iter().filter(|of| of["licenses"].is_null());
        assert_eq!(unlicensed.count(), 0, "{package}");
        let root = root.canonicalize().expect("a folder");
        assert!(!text.contains(root.to_str().expect("a plain path")));
    }
}
