"""The demo's MusicCoCa: text and audio in one space of styles, trained on our own music."""
