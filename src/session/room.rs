//! Room on the heap for what a session has now and then only. Sessions at rest do not carry its size, and a room that
//! was left is taken by the next, so that nothing is allocated.

use std::cell::RefCell;

/// Rooms that are free.
pub(super) struct Rooms<T>(RefCell<Vec<Box<Option<T>>>>);

/// A value in a room, or nothing.
pub(super) struct Room<T>(Option<Box<Option<T>>>);

/// As many as are in use at once, most of the time.
const SPARE: usize = 256;

impl<T> Default for Rooms<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<T> Default for Room<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Room<T> {
    pub fn as_ref(&self) -> Option<&T> {
        self.0.as_deref()?.as_ref()
    }

    pub fn as_mut(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()?.as_mut()
    }

    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }

    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    pub fn put(&mut self, rooms: &Rooms<T>, value: T) {
        let mut room = rooms.0.borrow_mut().pop().unwrap_or_default();
        *room = Some(value);
        self.0 = Some(room);
    }

    pub fn take(&mut self, rooms: &Rooms<T>) -> Option<T> {
        let mut room = self.0.take()?;
        let value = room.take();
        let mut free = rooms.0.borrow_mut();
        if free.len() < SPARE {
            free.push(room);
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_is_used_again() {
        let (rooms, mut one, mut other) = (Rooms::default(), Room::default(), Room::default());
        assert_eq!((one.take(&rooms), one.is_none()), (None, true));
        one.put(&rooms, 1);
        let at = one.as_ref().map(std::ptr::from_ref);
        assert_eq!((one.as_mut().copied(), one.take(&rooms), one.is_some()), (Some(1), Some(1), false));
        other.put(&rooms, 2);
        assert_eq!((other.as_ref().map(std::ptr::from_ref), other.as_ref()), (at, Some(&2)));
    }
}
