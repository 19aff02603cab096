"""GuestHouse: models beside the one that a replica was started with, loaded when they are asked for and let go when memory is needed."""
