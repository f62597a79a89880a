//! Records of operations under way, found again by a number that travels with the operation.

/// A table of `T` with reused places. Nothing is allocated once it has grown to the most that were ever in use.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    places: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Slots<T> {
    pub(crate) const fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }

    /// Keeps `value` and gives its number. `None` when memory has run out: the value is dropped.
    pub(crate) fn insert(&mut self, value: T) -> Option<u32> {
        if let Some(number) = self.free.pop() {
            self.places[number as usize] = Some(value);
            return Some(number);
        }
        let number = u32::try_from(self.places.len()).ok()?;
        self.places.try_reserve(1).ok()?;
        // Room to give every place back, so that `remove` never allocates.
        self.free.try_reserve(self.places.len() + 1).ok()?;
        self.places.push(Some(value));
        Some(number)
    }

    /// Takes a value out. `None` for a number that is not in use.
    pub(crate) fn remove(&mut self, number: u32) -> Option<T> {
        let value = self.places.get_mut(number as usize)?.take()?;
        self.free.push(number);
        Some(value)
    }

    /// The value with this number.
    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        self.places.get(number as usize)?.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_reused_and_dead_ones_find_nothing() {
        let mut slots = Slots::new();
        let a = slots.insert("a").expect("memory");
        let b = slots.insert("b").expect("memory");
        assert_ne!(a, b);
        assert_eq!(slots.get(a), Some(&"a"));
        assert_eq!(slots.remove(a), Some("a"));
        assert_eq!(slots.get(a), None);
        assert_eq!(slots.remove(a), None, "removed twice");
        assert_eq!(slots.insert("c"), Some(a));
        assert_eq!(slots.get(b), Some(&"b"));
        assert_eq!(slots.remove(99), None);
    }

    #[test]
    fn a_steady_state_does_not_grow() {
        let mut slots = Slots::new();
        let mut held: Vec<u32> = (0..100).map(|i| slots.insert(i).expect("memory")).collect();
        let (places, free) = (slots.places.capacity(), slots.free.capacity());
        for round in 0..1000 {
            let number = held.remove(round % held.len());
            slots.remove(number).expect("in use");
            held.push(slots.insert(0).expect("memory"));
        }
        for number in held {
            slots.remove(number).expect("in use");
        }
        assert_eq!((slots.places.capacity(), slots.free.capacity()), (places, free));
    }
}
