"""The demo's SentencePiece vocabulary, trained on words about music that are written here.

Invariant: any Unicode text has tokens (bytes stand in for what the corpus lacks), and the same
source gives the same model, byte for byte.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator

import sentencepiece

VOCABULARY_SIZE = 1_600  # at most: the corpus has fewer

GENRES = """
acid house acoustic afrobeat ambient baroque bebop bhangra blues bluegrass bossa nova breakbeat
celtic chamber chillout chiptune city pop classical country cumbia dancehall deep house disco
drum and bass dub dubstep electro electronic experimental fado flamenco folk footwork funk fusion
future bass garage glitch gospel grime grunge hip hop house indie industrial jazz jungle klezmer
krautrock latin lo-fi lullaby mariachi metal minimal motown neo soul new wave noise opera
orchestral phonk polka pop post rock progressive psychedelic punk ragtime reggae reggaeton rock
rockabilly romantic salsa samba shoegaze ska soul surf swing synthwave tango techno trance trap
trip hop vaporwave waltz western zydeco 808
"""

INSTRUMENTS = """
accordion bagpipe banjo bass bassoon bell bongo brass bouzouki cello choir clap clarinet clavinet
conga contrabass cowbell cymbal didgeridoo double bass drum drums duduk dulcimer electric guitar
electric piano english horn fiddle flute french horn glockenspiel gong guitar harmonica
harpsichord harp hi-hat hurdy gurdy kalimba kick keyboard koto lute lyre mandolin marimba
mellotron moog oboe organ oud pan flute percussion piano piccolo pipa recorder rhodes sampler
saxophone shaker shamisen sitar snare steel drum strings synth synthesizer tabla taiko tambourine
theremin timpani toms triangle trombone trumpet tuba turntable ukulele vibraphone viola violin
vocal voice whistle wurlitzer xylophone
"""

MOODS = """
aggressive airy angry anxious bittersweet bright bouncy calm cheerful cinematic cold cosmic cozy
dark deep distorted dreamy driving dusty eerie elegant emotional energetic epic ethereal
euphoric fast festive fierce filtered floating fluid fuzzy gentle glitchy gloomy gritty groovy
happy hard haunting heavy hopeful hypnotic intense intimate jazzy joyful laid back lazy light
live loud lush melancholic mellow melodic minimal moody muted mysterious nostalgic ominous
peaceful percussive playful powerful punchy quiet raw relaxed reverberant rhythmic romantic sad
sensual serene shimmering simple slow smooth soft solemn soothing sparse spacious spooky steady
stereo sultry sunny swirling syncopated tender tense tight tropical upbeat uplifting urgent vast
vintage warm weird wet wild wistful wobbly
"""

WORDS_BETWEEN = """
a an and at beats per minute bpm by for from in into like major minor of on over solo the through
to under with without
"""

SCENES = """
sunset over the ocean; rain on a window; a night drive through the city; a walk in the forest;
late night study session; workout at the gym; a video game boss fight; meditation and sleep;
a wedding dance; a rainy cafe in paris; a spaceship landing; a summer beach party;
an old record player; a quiet morning; a crowded club at midnight; a film score for a chase;
a lonely desert road; snow falling on a small village; a marching band; a school choir
"""


def train(captions: Iterable[str] = ()) -> bytes:
    """The serialised SentencePiece model; ids: pad 0, bos 1, eos 2, unknown 3.

    Args:
      captions: More sentences to learn pieces from.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=itertools.chain(_corpus(), captions),
        model_writer=model,
        model_type="unigram",
        vocab_size=VOCABULARY_SIZE,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name="identity",  # the tables of the others take 240 kB
        character_coverage=1.0,
        split_digits=True,  # so that no tempo is a word of its own, seen once or never
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        num_threads=1,  # several would merge counts in any order
        minloglevel=2,
    )
    return model.getvalue()


def _corpus() -> Iterator[str]:
    genres, instruments, moods = GENRES.split(), INSTRUMENTS.split(), MOODS.split()
    between = WORDS_BETWEEN.split()
    for number, mood in enumerate(moods):
        genre = genres[number % len(genres)]
        instrument = instruments[number % len(instruments)]
        yield f"{mood} {genre} with {instrument}"
        yield f"a {mood} {instrument} solo at {60 + number} bpm"
        yield f"{genre} {instrument}, {mood} and {moods[number - 1]}"
    for number, word in enumerate(genres + instruments):
        yield f"{word} {between[number % len(between)]} {moods[number % len(moods)]}"
        yield word
    for scene in SCENES.replace("\n", " ").split(";"):
        yield scene.strip()
    yield from between
