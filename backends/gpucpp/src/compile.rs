//! Getting code to a device: made ahead for it, compiled before, compiled now, or made ahead
//! for older devices. The first way that works is taken; where none does, the error has all.

use std::path::Path;
use std::sync::Arc;

use hadal_device::{Error, Features, Result};

use crate::cache::{Cache, Key};
use crate::code::{Code, Target};
use crate::driver::Driver;
use crate::gpu::{Gpu, NotLoaded, Object};
use crate::rtc::Rtc;

/// Loads modules of a device.
pub struct Compiler {
    code: &'static dyn Code,
    target: Target,
    cache: Cache,
    /// Images made ahead are not used.
    skips_images: bool,
}

/// A module on a device.
pub struct Module {
    /// The driver's.
    pub object: Object,
    /// Its kernels wait for those before them ([`Target::waits`]).
    pub waits: bool,
}

/// The ways tried without success, and why each failed.
#[derive(Default)]
struct Tried(Vec<String>);

impl Tried {
    /// The module of `image`, which is `what`; `None` if it cannot be used.
    fn load(&mut self, gpu: &Arc<Gpu>, what: &str, image: &[u8]) -> Result<Option<Object>> {
        match Object::module(gpu, image) {
            Ok(module) => Ok(Some(module)),
            Err(NotLoaded::Refused(why)) => {
                self.0.push(format!("{what}: {why}"));
                Ok(None)
            }
            Err(NotLoaded::Failed(error)) => Err(error),
        }
    }
}

impl Compiler {
    /// For devices that take `target`; compiled modules are kept below `folder`.
    pub fn new(
        code: &'static dyn Code,
        target: Target,
        folder: Option<&Path>,
        skips_images: bool,
    ) -> Compiler {
        Compiler {
            code,
            target,
            cache: Cache::new(folder),
            skips_images,
        }
    }

    /// Where compiled modules are kept, and whatever else takes time to find out.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// What kernels that a library may stand in for are made of, as a name.
    pub fn products(&self) -> String {
        const FILES: [&str; 4] = ["hopper8", "hopper", "matrix", "memory"];
        let sources = FILES.map(|file| self.code.source(file).unwrap_or_default());
        let parts = sources.iter().map(String::as_str);
        format!("{:?}", Key::of(parts.chain([self.code.image_compiler()])))
    }

    /// How modules will be got on a device of `driver`, if nothing is wrong with the first
    /// way there is, and features that cannot be had that way.
    ///
    /// # Errors
    /// There is no way at all: why, and what to do.
    pub fn describe(&self, driver: &Driver) -> std::result::Result<(String, Features), String> {
        let archs = self.archs();
        let arch = &self.target.arch;
        if archs.contains(&arch.as_str()) && driver.version >= self.target.images_from {
            return Ok(("kernels made ahead".into(), Features::NONE));
        }
        let why = match Rtc::open(driver.vendor, driver.path.as_deref(), driver.version) {
            Ok(rtc) => {
                let how = format!("kernels compiled by {}", rtc.version);
                return Ok((how, rtc.lacks()));
            }
            Err(why) => why,
        };
        let how = match self.portable(&archs) {
            Some(arch) => Ok(format!("kernels made ahead for {arch}")),
            None if self.compiled_before(driver) => {
                Ok(format!("only kernels compiled before: {why}"))
            }
            None => Err(format!(
                "no kernels were made ahead for {arch}, and {why}; or use the vulkan backend for it"
            )),
        };
        how.map(|how| (how, Features::NONE))
    }

    /// Whether the cache has a module for this device, one that every program needs.
    fn compiled_before(&self, driver: &Driver) -> bool {
        let source = self.code.source("values");
        let key = source.map(|source| key(driver.version, &self.target, &source));
        key.is_some_and(|key| self.cache.read(&key).is_some())
    }

    /// The architectures with images that may be used.
    fn archs(&self) -> Vec<&'static str> {
        match self.skips_images {
            true => Vec::new(),
            false => self.code.image_archs(),
        }
    }

    fn portable(&self, archs: &[&str]) -> Option<&'static str> {
        let mut wanted = self.target.portable.iter();
        wanted.find(|arch| archs.contains(arch)).copied()
    }

    /// The module of kernel file `file`.
    pub fn module(&self, gpu: &Arc<Gpu>, file: &str) -> Result<Module> {
        let mut tried = Tried::default();
        let archs = self.archs();
        let own = match self.ahead(gpu, file, &archs, &mut tried)? {
            None => self.now(gpu, file, &mut tried)?,
            ahead => ahead,
        };
        if let Some(object) = own {
            let waits = self.target.waits;
            return Ok(Module { object, waits });
        }
        let older = self.target.portable.iter();
        for arch in older.filter(|arch| **arch != self.target.arch && archs.contains(arch)) {
            if let Some(image) = self.code.image(arch, file)
                && let Some(object) = tried.load(gpu, &format!("made ahead for {arch}"), &image)?
            {
                let waits = false;
                return Ok(Module { object, waits });
            }
        }
        Err(Error::Unsupported {
            what: format!("kernel file {file} on {}", gpu.name),
            why: tried.0.join("; "),
        })
    }

    /// The image made ahead for exactly this architecture.
    fn ahead(
        &self,
        gpu: &Arc<Gpu>,
        file: &str,
        archs: &[&str],
        tried: &mut Tried,
    ) -> Result<Option<Object>> {
        let arch = self.target.arch.as_str();
        let image = archs
            .contains(&arch)
            .then(|| self.code.image(arch, file))
            .flatten();
        let Some(image) = image else {
            let why = format!("made ahead: there is nothing for {arch}");
            tried.0.push(why);
            return Ok(None);
        };
        let what = format!("made ahead by {}", self.code.image_compiler());
        tried.load(gpu, &what, &image)
    }

    /// What the driver's compiler makes, or made before.
    fn now(&self, gpu: &Arc<Gpu>, file: &str, tried: &mut Tried) -> Result<Option<Object>> {
        let Some(source) = self.code.source(file) else {
            tried.0.push(format!("compiled: there is no source {file}"));
            return Ok(None);
        };
        let key = key(gpu.driver.version, &self.target, &source);
        let rtc = Rtc::open(gpu.vendor(), gpu.driver.path.as_deref(), gpu.driver.version);
        let kept = self.cache.read(&key);
        if let Some((compiler, module)) = kept.as_deref().and_then(unmark)
            // Where no compiler is left to make it again, that of any one will do.
            && rtc.as_ref().map_or(true, |rtc| rtc.version.as_bytes() == compiler)
            && let Some(module) = tried.load(gpu, "compiled before", module)?
        {
            return Ok(Some(module));
        }
        let rtc = match rtc {
            Ok(rtc) => rtc,
            Err(why) => {
                tried.0.push(format!("compiled: {why}"));
                return Ok(None);
            }
        };
        let compiled = match rtc.compile(file, &source, &self.target.options) {
            Ok(compiled) => compiled,
            Err(why) => {
                tried.0.push(why);
                return Ok(None);
            }
        };
        let loaded = tried.load(gpu, &format!("compiled by {}", rtc.version), &compiled)?;
        if loaded.is_some() {
            self.cache.write(&key, &mark(&rtc.version, &compiled));
        }
        Ok(loaded)
    }
}

/// What a compiled module depends on, but for its compiler, whose name stands in it. hipRTC's own
/// version says little; it comes with the driver.
fn key(driver: (i32, i32), target: &Target, source: &str) -> Key {
    let driver = format!("{driver:?}");
    let parts = [driver.as_str(), &target.arch, source];
    Key::of(
        parts
            .into_iter()
            .chain(target.options.iter().map(String::as_str)),
    )
}

/// A module with the name of its compiler, as it is kept.
fn mark(compiler: &str, module: &[u8]) -> Vec<u8> {
    [compiler.as_bytes(), b"\n", module].concat()
}

/// The name of a kept module's compiler, and the module.
fn unmark(kept: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = kept.iter().position(|byte| *byte == b'\n')?;
    Some((&kept[..end], &kept[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::{Target, key};

    #[test]
    fn a_compiled_module_is_that_of_its_driver_architecture_source_and_options() {
        let target = |arch: &str, options: &[&str]| Target {
            arch: arch.into(),
            portable: Vec::new(),
            options: options.iter().map(|option| option.to_string()).collect(),
            images_from: (12, 0),
            waits: false,
        };
        let keys = [
            key((12, 4), &target("sm_90a", &["-a"]), "source"),
            key((12, 5), &target("sm_90a", &["-a"]), "source"),
            key((12, 4), &target("sm_90", &["-a"]), "source"),
            key((12, 4), &target("sm_90a", &["-b"]), "source"),
            key((12, 4), &target("sm_90a", &["-a", ""]), "source"),
            key((12, 4), &target("sm_90a", &["-a"]), "sources"),
        ];
        for (number, one) in keys.iter().enumerate() {
            assert!(keys[..number].iter().all(|other| other != one), "{number}");
        }
        assert!(keys[0] == key((12, 4), &target("sm_90a", &["-a"]), "source"));
    }
}
