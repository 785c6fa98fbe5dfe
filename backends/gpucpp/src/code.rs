//! Where kernels come from, and what a device needs to be told of it.

/// Sources of kernels and what was compiled from them ahead.
pub trait Code: Send + Sync {
    /// The text of a file of kernels with all it includes.
    fn source(&self, file: &str) -> Option<String>;

    /// The module made ahead of a file of kernels for an architecture: PTX for NVIDIA, a code
    /// object for AMD.
    fn image(&self, arch: &str, file: &str) -> Option<Vec<u8>>;

    /// The architectures that modules were made ahead for.
    fn image_archs(&self) -> Vec<&'static str>;

    /// What they were made with.
    fn image_compiler(&self) -> &str;
}

/// The kernels of the shaders crate.
pub struct ShaderCode;

impl Code for ShaderCode {
    fn source(&self, file: &str) -> Option<String> {
        hadal_shaders::gpu::source(file)
    }

    fn image(&self, arch: &str, file: &str) -> Option<Vec<u8>> {
        hadal_shaders::gpu::image(arch, file)
    }

    fn image_archs(&self) -> Vec<&'static str> {
        hadal_shaders::gpu::image_archs()
    }

    fn image_compiler(&self) -> &str {
        hadal_shaders::gpu::IMAGE_COMPILER
    }
}

/// What code a device takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The architecture as images are named.
    pub arch: String,
    /// Architectures whose images the driver translates for this device, best first.
    pub portable: Vec<&'static str>,
    /// Options of the driver's compiler, the exact architecture among them.
    pub options: Vec<String>,
    /// The oldest driver that takes the image for this architecture.
    pub images_from: (i32, i32),
    /// Kernels made for exactly this architecture wait themselves until those before them have
    /// ended (`wait_for_kernels` in `shaders/gpu/portable.h`): their blocks may be sent ahead.
    pub waits: bool,
}
