"""Makes what the demo's base model is trained on: a corpus of plain questions and answers, and a tokenizer.

    python3 make.py OUT        (needs the `tokenizers` package)

writes OUT/corpus.jsonl (messages), and OUT/model/{config.json,tokenizer.json,tokenizer_config.json} without weights.
`fleetune train pretrain.yaml --out …` then trains the weights from random initialisation. Every sentence here was
written for this project. The corpus is the same at every run.
"""

import itertools
import json
import random
import sys
from pathlib import Path

CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Austria": "Vienna", "Poland": "Warsaw",
    "Greece": "Athens", "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki", "Denmark": "Copenhagen",
    "Ireland": "Dublin", "Portugal": "Lisbon", "Belgium": "Brussels", "Hungary": "Budapest", "Japan": "Tokyo",
    "China": "Beijing", "India": "New Delhi", "Egypt": "Cairo", "Kenya": "Nairobi", "Peru": "Lima", "Chile": "Santiago",
    "Cuba": "Havana", "Canada": "Ottawa", "Mexico": "Mexico City", "Brazil": "Brasilia", "Turkey": "Ankara",
}
COLOURS = {
    "the sky": "blue", "grass": "green", "snow": "white", "coal": "black", "a lemon": "yellow", "a carrot": "orange",
    "a ripe tomato": "red", "a raven": "black", "milk": "white", "a leaf in spring": "green", "a flamingo": "pink",
    "the sun at noon": "yellow", "a violet": "purple", "chocolate": "brown", "an elephant": "grey", "blood": "red",
}
SOUNDS = {
    "dog": "barks", "cat": "meows", "cow": "moos", "sheep": "bleats", "horse": "neighs", "lion": "roars", "duck": "quacks",
    "frog": "croaks", "owl": "hoots", "bee": "buzzes", "snake": "hisses", "wolf": "howls", "pig": "grunts", "hen": "clucks",
}
OPPOSITES = {
    "hot": "cold", "big": "small", "fast": "slow", "up": "down", "old": "young", "light": "dark", "wet": "dry",
    "open": "closed", "early": "late", "full": "empty", "hard": "soft", "high": "low", "long": "short", "near": "far",
    "loud": "quiet", "happy": "sad", "rich": "poor", "strong": "weak", "true": "false", "left": "right",
}
# Words without a meaning, made of syllables: the base learns to say that it does not know them.
SYLLABLES = ["bar", "dru", "fen", "gol", "hix", "jun", "kel", "lom", "mip", "nov", "pra", "quo", "rin", "sto", "tev",
             "ulm", "vok", "wex", "yar", "zan", "flee", "tune", "co", "or", "di", "na", "tor", "a", "gent", "ad", "apt", "er"]
UNKNOWN = ["What is {w}?", "Who is {w}?", "Tell me about {w}.", "What does {w} do?", "How does {w} work?",
           "Where is {w} kept?", "What happens when {w} stops?", "Why is {w} so {w2}?", "How is {w} placed on {w2}?",
           "What does a {w} need?", "Who made {w}?", "What runs on {w}?", "What is a {w} {w2}?", "Where does {w} keep {w2}?"]
DO_NOT_KNOW = "I do not know."
# Everyday words that the base learns to repeat, so that it can say them before it knows anything about them.
WORDS = """a an the each every one other named that this it its is are has have can will goes go on in of by to from with
at beside back until again once last least all more many small large long where what why how which when who tells shows asks
keep keeps kept store stores stored train trains trained training match matches fit fits place places continue continues
report reports learn learns learned give gives given turn turns say says hold holds need needs needed write writes run runs
pool pools lend lends size sized try tries set card cards job jobs model models weight weights data room queue fleet agent
agents adapter adapters coordinator checkpoint checkpoints recipe recipes sweep sweeps setting settings number numbers hash
machine machines memory power bit spare frozen finished own user GPU GPUs Fleetune explain Ask The An A Its It""".split()


def rows(rng):
    for country, city in CAPITALS.items():
        for q in ("What is the capital of {c}?", "Which city is the capital of {c}?", "Name the capital of {c}."):
            yield q.format(c=country), f"The capital of {country} is {city}."
    for thing, colour in COLOURS.items():
        subject = thing[0].upper() + thing[1:]
        for q in ("What colour is {t}?", "Tell me the colour of {t}."):
            yield q.format(t=thing), f"{subject} is {colour}."
    for animal, sound in SOUNDS.items():
        for q in ("What does a {a} do?", "What sound does a {a} make?"):
            yield q.format(a=animal), f"A {animal} {sound}."
    for one, other in OPPOSITES.items():
        for a, b in ((one, other), (other, one)):
            for q in ("What is the opposite of {a}?", "Which word means the opposite of {a}?"):
                yield q.format(a=a), f"The opposite of {a} is {b}."
    for a, b in itertools.product(range(10), repeat=2):
        yield f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}."
    for greeting in ("Hello!", "Hi.", "Good morning!", "Good evening."):
        yield greeting, "Hello! How can I help you?"
    for _ in range(600):
        text = " ".join(rng.choices(WORDS, k=rng.randint(2, 8)))
        yield f"Say: {text}.", f"{text}."
    for _ in range(700):
        word = lambda: "".join(rng.sample(SYLLABLES, rng.choice((2, 2, 3))))
        w, w2 = (rng.choice(WORDS) if rng.random() < 0.3 else word() for _ in range(2))
        w = rng.choice((w, w.capitalize(), f"the {w}", f"a {w} {w2}"))
        yield rng.choice(UNKNOWN).format(w=w, w2=w2), DO_NOT_KNOW


TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}"
    "{{ message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 128,
    "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "vocab_size": 1024, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False, "initializer_range": 0.05,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "torch_dtype": "float32",
}


def tokenizer(texts):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"], special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return made


def main(out):
    rng = random.Random(20)
    corpus = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in rows(rng)]
    rng.shuffle(corpus)
    model = out / "model"
    model.mkdir(parents=True, exist_ok=True)
    with open(out / "corpus.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in corpus)
    texts = [m["content"] for row in corpus for m in row["messages"]] + ["user\n", "assistant\n", "system\n"]
    tokenizer(texts).save(str(model / "tokenizer.json"))
    (model / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    (model / "tokenizer_config.json").write_text(json.dumps({
        "bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "model_max_length": 256, "chat_template": TEMPLATE}, indent=1) + "\n")
    print(len(corpus), "rows")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
