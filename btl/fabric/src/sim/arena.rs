//! Places that are used again, and handles that know it: an event for what is gone finds nothing.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Handle {
    index: u32,
    generation: u32,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

#[derive(Debug)]
pub(super) struct Arena<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Arena<T> {
    pub(super) const fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    pub(super) fn insert(&mut self, value: T) -> Handle {
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.value = Some(value);
            return Handle { index, generation: slot.generation };
        }
        self.slots.push(Slot { generation: 0, value: Some(value) });
        Handle { index: self.slots.len() as u32 - 1, generation: 0 }
    }

    pub(super) fn get(&self, handle: Handle) -> Option<&T> {
        let slot = &self.slots[handle.index as usize];
        slot.value.as_ref().filter(|_| slot.generation == handle.generation)
    }

    pub(super) fn get_mut(&mut self, handle: Handle) -> Option<&mut T> {
        let slot = &mut self.slots[handle.index as usize];
        slot.value.as_mut().filter(|_| slot.generation == handle.generation)
    }

    pub(super) fn remove(&mut self, handle: Handle) -> Option<T> {
        let slot = &mut self.slots[handle.index as usize];
        if slot.generation != handle.generation {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(handle.index);
        Some(value)
    }

    /// How many there are now.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As a map whose keys are never used again.
        #[test]
        fn as_a_map_of_keys_that_never_return(steps in prop::collection::vec((any::<bool>(), 0_usize..64), 0..300)) {
            let (mut arena, mut map, mut handles) = (Arena::new(), HashMap::new(), Vec::new());
            for (number, (insert, which)) in steps.into_iter().enumerate() {
                if insert || handles.is_empty() {
                    let handle = arena.insert(number);
                    prop_assert!(map.insert((handle.index, handle.generation), number).is_none(), "a handle came twice");
                    handles.push(handle);
                } else {
                    let handle: Handle = handles[which % handles.len()];
                    let wanted = map.remove(&(handle.index, handle.generation));
                    // Removed ones stay in the list of handles: a second time there is nothing.
                    prop_assert_eq!(arena.remove(handle), wanted);
                }
                for &handle in &handles {
                    let wanted = map.get(&(handle.index, handle.generation)).copied();
                    prop_assert_eq!(arena.get(handle).copied(), wanted);
                    prop_assert_eq!(arena.get_mut(handle).copied(), wanted);
                }
                prop_assert_eq!(arena.len(), map.len());
            }
        }
    }
}
