"""Images from bytes to pixels and back; knows nothing of networks or other processes."""
