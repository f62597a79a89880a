//! Requests under way, by handles that go over the wire and come back from peers: a handle that is too old, or made up, finds
//! nothing.

/// A request's place and which of those that had it: `generation << 32 | index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(u64);

impl Handle {
    /// As it goes over the wire.
    pub const fn to_wire(self) -> u64 {
        self.0
    }

    /// As it came: anything.
    pub const fn from_wire(bits: u64) -> Self {
        Self(bits)
    }

    const fn new(index: u32, generation: u32) -> Self {
        Self((generation as u64) << 32 | index as u64)
    }

    /// Its place, for a table beside.
    pub const fn index(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }

    const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

#[derive(Debug, Clone)]
struct Place<T> {
    generation: u32,
    value: Option<T>,
}

/// Requests of one kind. Places are used again, the last one freed first, and never given back.
#[derive(Debug, Clone)]
pub struct Requests<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

impl<T> Default for Requests<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Requests<T> {
    /// No requests.
    pub const fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }

    /// Gives a request a place.
    #[inline]
    pub fn insert(&mut self, value: T) -> Handle {
        self.insert_with(|_| value)
    }

    /// As [`Requests::insert`], for a request that is to know its handle.
    #[inline(always)]
    pub fn insert_with(&mut self, make: impl FnOnce(Handle) -> T) -> Handle {
        let index = self.free.pop().unwrap_or_else(|| self.push());
        let place = &mut self.places[index as usize];
        place.generation = place.generation.wrapping_add(1);
        let handle = Handle::new(index, place.generation);
        place.value = Some(make(handle));
        handle
    }

    /// One place more.
    #[cold]
    fn push(&mut self) -> u32 {
        let index = u32::try_from(self.places.len()).expect("memory ends before four billion requests");
        self.places.push(Place { generation: 0, value: None });
        // So that freeing never allocates.
        self.free.reserve(self.places.len() - self.free.len());
        index
    }

    /// The request with this handle.
    #[inline]
    pub fn get(&self, handle: Handle) -> Option<&T> {
        let place = self.places.get(handle.index())?;
        if place.generation == handle.generation() { place.value.as_ref() } else { None }
    }

    /// As [`Requests::get`].
    #[inline]
    pub fn get_mut(&mut self, handle: Handle) -> Option<&mut T> {
        let place = self.places.get_mut(handle.index())?;
        if place.generation == handle.generation() { place.value.as_mut() } else { None }
    }

    /// Takes a request out.
    #[inline]
    pub fn remove(&mut self, handle: Handle) -> Option<T> {
        self.remove_if(handle, |_| true)
    }

    /// Takes a request out, if it is as it should be.
    #[inline]
    pub fn remove_if(&mut self, handle: Handle, may: impl FnOnce(&T) -> bool) -> Option<T> {
        let place = self.places.get_mut(handle.index())?;
        if place.generation != handle.generation() {
            return None;
        }
        let value = place.value.take_if(|value| may(value))?;
        self.free.push(handle.index() as u32);
        Some(value)
    }

    /// All requests.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.places.iter().filter_map(|place| place.value.as_ref())
    }

    /// All requests, with their handles.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Handle, &mut T)> {
        self.places.iter_mut().enumerate().filter_map(|(index, place)| {
            let handle = Handle::new(index as u32, place.generation);
            Some((handle, place.value.as_mut()?))
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Against a map; handles that are gone, or made up, find nothing.
        #[test]
        fn as_a_map(steps in proptest::collection::vec((0_u8..4, any::<u8>()), 0..200)) {
            let mut requests = Requests::new();
            let mut model = BTreeMap::new();
            let mut handles = Vec::new();
            for (what, which) in steps {
                match what {
                    0 | 1 => {
                        let mut told = None;
                        let handle = requests.insert_with(|handle| {
                            told = Some(handle);
                            which
                        });
                        prop_assert_eq!(told, Some(handle));
                        prop_assert!(model.insert(handle, which).is_none(), "a handle is never used again");
                        handles.push(handle);
                    }
                    2 if !handles.is_empty() => {
                        let handle = handles[which as usize % handles.len()];
                        prop_assert_eq!(requests.remove(handle), model.remove(&handle));
                    }
                    _ => {
                        let made_up = Handle::from_wire(u64::from(which) << 32 | u64::from(what));
                        prop_assert_eq!(requests.get(made_up), model.get(&made_up));
                        prop_assert_eq!(requests.get_mut(made_up), model.get_mut(&made_up));
                    }
                }
                prop_assert_eq!(requests.len(), model.len());
                for handle in &handles {
                    prop_assert_eq!(requests.get(*handle), model.get(handle));
                    prop_assert_eq!(requests.get_mut(*handle), model.get_mut(handle));
                }
            }
        }
    }
}
