"""The demo's codec: music to 12 codes a frame and back, trained from our own sounds."""
