"""An image from bytes to pixels and back; knows no network and no process but its own."""
