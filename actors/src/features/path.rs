//! Where a value is in an event: a field, or one inside of objects.
//!
//! Pure. Top-level fields come from the event's scan; only the way to a nested one is taken apart, by need.

use crate::event::{
    EventRef,
    fields::{self, FieldId, Kind, Value},
};

/// A path such as `page_url` or `product.sku`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path {
    id: FieldId,
    name: String,
    inside: Vec<String>,
}

impl Path {
    pub(super) fn new(name: &str, inside: Vec<String>) -> Self {
        Self { id: FieldId::of(name), name: name.to_owned(), inside }
    }

    /// The value there; `None` when the field is not there, or something on the way is no object.
    pub(super) fn find<'a>(&self, event: EventRef<'a>) -> Option<Value<'a>> {
        let mut value = event.find(self.id, &self.name)?;
        for name in &self.inside {
            if value.kind != Kind::Object {
                return None;
            }
            value = Value::of(fields::member(value.raw, name)?);
        }
        Some(value)
    }

    /// The field of the event that the path begins with.
    pub(super) fn root(&self) -> &str {
        &self.name
    }
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)?;
        self.inside.iter().try_for_each(|name| write!(f, ".{name}"))
    }
}
