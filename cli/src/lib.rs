//! Ferromesh.
