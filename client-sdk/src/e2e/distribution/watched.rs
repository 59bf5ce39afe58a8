//! A list, and what was found out about all its elements while none of them could change.

/// Elements of which it is known that none has changed since something was found out about them.
pub(super) struct Watched<T, F> {
    list: Vec<T>,
    found: Option<F>,
}

impl<T, F> Default for Watched<T, F> {
    fn default() -> Self {
        Self { list: Vec::new(), found: None }
    }
}

impl<T, F> Watched<T, F> {
    pub(super) fn push(&mut self, element: T) {
        self.found = None;
        self.list.push(element);
    }

    pub(super) const fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.list.iter()
    }

    /// Goes through elements that may be changed: what was found out is forgotten.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.found = None;
        self.list.iter_mut()
    }

    /// Returns what was found out, unless an element may have changed since.
    pub(super) const fn found(&self) -> Option<&F> {
        self.found.as_ref()
    }

    pub(super) fn note(&mut self, found: F) {
        self.found = Some(found);
    }
}
