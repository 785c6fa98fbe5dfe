//! The window: how wgpu is set up so that the engine can share its device.
//!
//! Decides what is asked of the adapter; what is drawn is `pages`'.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use eframe::egui::{Context, ViewportBuilder};
use eframe::egui_wgpu::{RenderState, WgpuConfiguration, WgpuSetup, WgpuSetupCreateNew};
use eframe::icon_data::from_png_bytes;
use eframe::{NativeOptions, Renderer};
use hadal::Device;
use hadal_wgpu::{WgpuOptions, from_wgpu, required_features, required_limits, wgpu};

/// The widest texture that is asked for: windows on screens of 8K.
const TEXTURE: u32 = 8192;

/// A window whose device has what the engine can use, as far as the adapter offers it.
pub fn options() -> NativeOptions {
    let mut setup = WgpuSetupCreateNew::without_display_handle();
    // The backends that this build has.
    setup.instance_descriptor.backends = wgpu::Backends::PRIMARY;
    setup.device_descriptor = Arc::new(|adapter| {
        let mut limits = required_limits(adapter);
        let offered = adapter.limits().max_texture_dimension_2d;
        limits.max_texture_dimension_2d = offered.min(TEXTURE);
        wgpu::DeviceDescriptor {
            label: Some("window"),
            required_features: required_features(adapter),
            required_limits: limits,
            ..wgpu::DeviceDescriptor::default()
        }
    });
    let mut viewport = ViewportBuilder::default()
        .with_title("Hadal")
        .with_app_id("hadal")
        .with_inner_size([1180.0, 780.0])
        .with_min_inner_size([720.0, 480.0]);
    // Without its picture it is still a window.
    if let Ok(icon) = from_png_bytes(include_bytes!("../icon.png")) {
        viewport = viewport.with_icon(icon);
    }
    NativeOptions {
        viewport,
        renderer: Renderer::Wgpu,
        // There are no gradients, and a software adapter draws sooner without.
        dithering: false,
        wgpu_options: WgpuConfiguration {
            wgpu_setup: WgpuSetup::CreateNew(setup),
            ..WgpuConfiguration::default()
        },
        ..NativeOptions::default()
    }
}

/// Whether the device that draws was lost. A window cannot be drawn from then on: it closes, and the
/// program opens another.
#[derive(Default)]
pub struct Loss {
    why: OnceLock<String>,
    closing: AtomicBool,
}

impl Loss {
    /// Listens to the device of `window`; a loss wakes `context`. wgpu would end the program at the
    /// first call that a lost device refuses.
    pub fn watch(self: &Arc<Loss>, window: &RenderState, context: &Context) {
        let (loss, wake) = (self.clone(), context.clone());
        let lose = move |why: String| {
            let _ = loss.why.set(why);
            wake.request_repaint();
        };
        let lose_then = lose.clone();
        let device = &window.device;
        device.set_device_lost_callback(move |reason, why| lose_then(format!("{reason:?} {why}")));
        device.on_uncaptured_error(Arc::new(move |error| lose(error.to_string())));
    }

    /// It was lost: the window is to close, because of that.
    pub fn closes(&self) -> bool {
        let lost = self.why.get().is_some();
        if lost {
            self.closing.store(true, Ordering::Relaxed);
        }
        lost
    }

    /// Why a window that was lost is closed; `None` where somebody closed it, though devices are told
    /// of then too.
    pub fn closed_by(&self) -> Option<String> {
        let closing = self.closing.load(Ordering::Relaxed);
        self.why.get().filter(|_| closing).cloned()
    }
}

/// The engine's device on the window's.
///
/// # Errors
/// Why it cannot be shared.
pub fn share(window: Option<&RenderState>) -> Result<Arc<dyn Device>, String> {
    let Some(window) = window else {
        return Err("the window is not drawn with wgpu".to_string());
    };
    let (device, queue) = (window.device.clone(), window.queue.clone());
    let options = WgpuOptions::default();
    let shared = from_wgpu(&window.instance, &window.adapter, device, queue, options);
    match shared {
        Ok(shared) => Ok(shared),
        Err(error) => Err(error.to_string()),
    }
}
