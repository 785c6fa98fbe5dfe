//! The suite's own promises: every row has cases, reports are the same twice and can be read
//! back, expectations. What needs a process of its own is in `guards.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;

use hadal_conformance::execute::{Status, execute};
use hadal_conformance::plan::{self, Work};
use hadal_conformance::{Expectation, Kind, Options, Profile, Report, Suite};
use hadal_device::{Backend, Device, DeviceInfo, Features};
use hadal_host::HostBackend;

fn host() -> Arc<dyn Device> {
    HostBackend::new().open(0).expect("the host always opens")
}

/// The host's facts with other features: enough to list cases.
fn with(features: Features) -> DeviceInfo {
    DeviceInfo {
        features,
        ..host().info().clone()
    }
}

#[test]
fn every_row_of_the_table_has_a_case() {
    let all = Features::ALL
        .iter()
        .fold(Features::NONE, |set, (one, _)| set.with(*one));
    let mut unseen: BTreeSet<_> = hadal_shaders::table().iter().map(|row| row.name).collect();
    for case in plan::cases(hadal_shaders::table(), &with(all), Profile::Core) {
        if let Work::Row(_, row) = case.work {
            unseen.remove(row.name);
        }
    }
    assert!(
        unseen.is_empty(),
        "no case of the core profile runs {unseen:?}"
    );
}

#[test]
fn ids_are_unique_and_groups_stand_together() {
    for profile in [Profile::Core, Profile::V3Decode, Profile::V3Full] {
        let cases = plan::cases(hadal_shaders::table(), host().info(), profile);
        let ids: BTreeSet<_> = cases.iter().map(|case| &case.id).collect();
        assert_eq!(ids.len(), cases.len());
        let mut groups: Vec<_> = cases.iter().map(|case| &case.group).collect();
        groups.dedup();
        let distinct: BTreeSet<_> = groups.iter().collect();
        assert_eq!(distinct.len(), groups.len(), "a group is in two places");
    }
}

#[test]
fn a_device_without_kernels_fails_and_is_not_skipped() {
    let cases = plan::cases(hadal_shaders::table(), &with(Features::NONE), Profile::Core);
    let linear = cases
        .iter()
        .find(|case| case.group == "op.linear")
        .expect("a case");
    let Work::NoRow(_, why) = &linear.work else {
        panic!("a row without features");
    };
    assert!(why.contains("host") && why.contains("wgsl"), "{why}");
    // Of a device with a language, what rows in others need is no reason.
    let only = plan::cases(hadal_shaders::table(), &with(Features::WGSL), Profile::Core);
    let reasons: Vec<&str> = only
        .iter()
        .filter_map(|case| match &case.work {
            Work::NoRow(_, why) => Some(why.as_str()),
            _ => None,
        })
        .collect();
    assert!(reasons.iter().any(|why| why.contains("needs subgroups")));
    for why in reasons {
        let others = ["host", "gpu-c++", "spirv", "neon"].iter();
        let known = why.starts_with("its rows are in");
        let named = others.filter(|name| why.contains(**name)).count();
        assert!(known || named == 0, "{why}");
        assert!(!why.contains("wgsl"), "{why}");
    }
    let result = execute(linear, &host(), &[], 1);
    assert!(matches!(result.status, Status::Failed { .. }), "{result:?}");
}

#[test]
fn expectations_turn_failures_and_passes_around() {
    let device = host();
    let cases = plan::cases(hadal_shaders::table(), device.info(), Profile::Core);
    let good = cases
        .iter()
        .find(|case| case.group == "op.add")
        .expect("a case");
    let line = |kind| Expectation {
        case: "op.add/",
        device: "",
        kind,
        why: "of a test",
    };
    let status = |lines: &[Expectation]| execute(good, &device, lines, 1).status;
    assert!(matches!(status(&[]), Status::Passed { .. }));
    assert!(matches!(
        status(&[line(Kind::FailsToday)]),
        Status::UnexpectedPass { .. }
    ));
    assert!(matches!(
        status(&[line(Kind::Unsupported)]),
        Status::Unsupported { .. }
    ));
    let other = Expectation {
        device: "another vendor",
        ..line(Kind::FailsToday)
    };
    assert!(matches!(status(&[other]), Status::Passed { .. }));
}

#[test]
fn the_same_seed_gives_the_same_report_and_it_can_be_read_back() {
    let suite = Suite::new(Box::new(HostBackend::new()));
    let options = Options {
        cases: vec!["op.norm".into()],
        seed: 9,
        ..Options::default()
    };
    let device = suite.open(&options).expect("the host always opens");
    let run = || {
        let cases = suite.cases(&*device, &options);
        let results = cases
            .iter()
            .map(|case| execute(case, &device, &[], options.seed));
        Report::new(&suite, &options, device.info(), results.collect())
    };
    let (first, second) = (run(), run());
    assert_eq!(first.json(), second.json());
    assert!(first.summary.is_good(), "{:?}", first.summary);
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["report.json", "report.xml", "report.md"] {
        first
            .write(&folder.path().join(name))
            .expect("it is written");
    }
    let back = Report::read(&folder.path().join("report.json")).expect("it is read");
    assert_eq!(back, first);
    let mut changed = back.clone();
    changed.results[0].status = Status::Failed {
        why: "of a test".into(),
    };
    changed.results.pop();
    assert_eq!(first.differences(&back), Vec::<String>::new());
    assert_eq!(first.differences(&changed).len(), 2);
    assert!(first.write(&folder.path().join("report.txt")).is_err());
    std::fs::write(folder.path().join("bad.json"), "{}").expect("written");
    assert!(Report::read(&folder.path().join("bad.json")).is_err());
}
