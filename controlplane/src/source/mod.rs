//! Where objects come from. A source delivers batches of [`crate::model::Change`]s and findings about what it could not take.
