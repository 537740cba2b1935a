//! Paths: the first byte chooses the settings, the rest is a path.

use mesh_proxy::http::normalize::{Path, path};
use mesh_proxy::http::{EscapedSlashes, Normalize, Underscores};

fn settings(bits: u8) -> Normalize {
    Normalize {
        path: bits & 1 != 0,
        merge_slashes: bits & 2 != 0,
        escaped_slashes: match bits >> 2 & 3 {
            0 => EscapedSlashes::Keep,
            1 => EscapedSlashes::Reject,
            2 => EscapedSlashes::UnescapeAndRedirect,
            _ => EscapedSlashes::UnescapeAndForward,
        },
        underscores: Underscores::Allow,
    }
}

/// What was judged is what is forwarded: a canonical path is canonical when it is looked at again, and holds nothing that the settings
/// take out.
pub fn normalization(data: &[u8]) {
    let Some((bits, rest)) = data.split_first() else { return };
    let Ok(raw) = std::str::from_utf8(rest) else { return };
    let settings = settings(*bits);
    let canonical = match path(raw, &settings) {
        Path::Canonical(canonical) => canonical,
        Path::Rejected(_) => return,
        Path::Redirect(location) => {
            assert!(location.len() <= raw.len(), "{raw:?} grew to {location:?}");
            return;
        }
    };
    assert_eq!(path(&canonical, &settings), Path::Canonical(canonical.as_ref().into()), "of {raw:?} with {settings:?}");
    let only_path = canonical.split('?').next().unwrap_or_default();
    if settings.merge_slashes {
        assert!(!only_path.contains("//"), "{raw:?} became {canonical:?}");
    }
    if settings.path && raw.starts_with('/') {
        let dots = only_path.split('/').any(|segment| segment == "." || segment == "..");
        assert!(!dots, "{raw:?} became {canonical:?}");
    }
}
