//! The sizes of a case: what a failing case is shrunk by and replayed from.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! shape {
    ($($(#[$doc:meta])* $name:ident $short:literal,)*) => {
        /// Sizes of a case of one operation; what an operation does not have is 0. Names are
        /// those of `hadal_device::Params`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Shape {
            $($(#[$doc])* #[serde(skip_serializing_if = "is_zero")] pub $name: u32,)*
        }

        impl Shape {
            /// Every size with its short name.
            pub fn sizes(&self) -> Vec<(&'static str, u32)> {
                vec![$(($short, self.$name),)*]
            }

            /// The same shape with one size smaller: halved, or one less. Whether it is
            /// legal is the operation's business.
            pub fn smaller(&self) -> Vec<Shape> {
                let mut shapes = Vec::new();
                $(
                    for size in [self.$name / 2, self.$name.saturating_sub(1)] {
                        if size < self.$name {
                            shapes.push(Shape { $name: size, ..*self });
                        }
                    }
                )*
                shapes.dedup();
                shapes
            }
        }
    };
}

fn is_zero(size: &u32) -> bool {
    *size == 0
}

shape! {
    /// Rows (tokens) that exist.
    real "r",
    /// Rows the program was prepared for beyond those.
    spare "spare",
    /// Outputs a row.
    n "n",
    /// Inputs a row.
    k "k",
    /// Attention heads.
    heads "heads",
    /// Query and key values a head without rotation.
    nope "nope",
    /// Rotated values a head.
    rope "rope",
    /// Value width a head.
    value "value",
    /// Width of the cached latent.
    latent "latent",
    /// Positions in the longest sequence.
    context "context",
    /// Routed experts.
    experts "experts",
    /// Expert groups.
    groups "groups",
    /// Groups kept by the router.
    kept "kept",
    /// Experts a token.
    top_k "top",
    /// Weight rows, head rows or experts before the bound ones.
    first "first",
    /// Weight rows or experts after the bound ones.
    after "after",
    /// Elements before the first row and between rows, which are nobody's.
    gap "gap",
    /// Bits of `hadal_device::flags`.
    flags "flags",
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sizes = self.sizes();
        sizes.retain(|(_, size)| *size != 0);
        let text: Vec<_> = sizes
            .iter()
            .map(|(name, size)| format!("{name}{size}"))
            .collect();
        f.write_str(&text.join("_"))
    }
}

impl Shape {
    /// Rows the program is prepared for: an upper bound of the real ones.
    pub fn bucket(&self) -> u32 {
        self.real + self.spare
    }

    /// The same where products may be rounded.
    pub fn rough(self) -> Shape {
        Shape {
            flags: self.flags | hadal_device::flags::ROUGH,
            ..self
        }
    }
}
