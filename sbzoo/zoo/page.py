"""The file of a model card: all of it follows from the fields of its head.

What they cannot say is in a file `notes.md` beside it, and is put at the end.
"""

from __future__ import annotations

from jinja2 import Environment, StrictUndefined

from sbzoo.checkpoint.cards import MARK, TASKS, Card, Result, metadata

NOTES = 'notes.md'
CALLS = {
    'object-detection': "predict('image.png')",
    'unconditional-image-generation': 'sample(16).shape',
    'image-to-image': "translate('image.png').shape",
}
TEMPLATE = """\
# {{ card.name }}

{{ card.summary }}
{% if picture %}

![{{ picture }}]({{ picture }})
{% endif %}

## Use

{% if call %}
```python
import sbzoo

model = sbzoo.load('{{ card.name }}')
print(model.{{ call }})
```
{% elif card.config %}
```bash
python tools/train.py {{ card.config }} --data DIR
```
{% elif card.weights %}
No config of sbzoo loads it; `sbzoo.checkpoint.resolve.resolve('card://{{ card.name }}')` is the
checked file.
{% else %}
Its weights are not published.
{% endif %}

## Results

{% if card.results %}
| {{ columns|join(' | ') }} |
|{{ '---|' * columns|length }}
{% for row in rows %}
| {{ row|join(' | ') }} |
{% endfor %}

{% if card.is_ours %}
The weights are those of seed {{ card.seeds[0] }}.
{% if card.half %}
They are kept in half precision, and the values are measured with them as they are kept.
{% if card.seeds|length > 1 %}
Mean and standard deviation are of the runs, in single precision.
{% endif %}
{% endif %}
{% else %}
As published by the source; not measured here.
{% endif %}
{% else %}
None is published.
{% endif %}

## Training

| | |
|---|---|
{% for label, value in facts %}
| {{ label }} | {{ value }} |
{% endfor %}
{% if card.limits %}

## Limits

{% for limit in card.limits %}
- {{ limit }}
{% endfor %}
{% endif %}

## Licence

{{ licence }}
{% if notes %}

{{ notes }}
{% endif %}
"""


def page(card: Card) -> str:
    """The text of a card's file."""
    rows = [_row(card, result) for result in card.results]
    columns = [name for name in rows[0] if any(row[name] for row in rows)] if rows else []
    environment = Environment(trim_blocks=True, undefined=StrictUndefined, autoescape=False)
    body = environment.from_string(TEMPLATE).render(
        card=card,
        call=CALLS.get(card.task) if card.config else None,
        picture=_picture(card),
        columns=columns,
        rows=[[row[column] for column in columns] for row in rows],
        facts=[(label, value) for label, value in _facts(card).items() if value],
        licence=_licence(card),
        notes=_notes(card),
    )
    return f'{MARK}{metadata(card).to_yaml()}\n{MARK}\n{body.rstrip()}\n'


def _row(card: Card, result: Result) -> dict[str, str]:
    several = f'mean ± standard deviation of {len(card.seeds)} seeds'
    return {
        'metric': result.metric,
        'value': str(result.value),
        several: '' if result.mean is None else f'{result.mean} ± {result.std}',
        'split': result.split,
        'protocol': result.protocol,
    }


def picture_of(task: str) -> str:
    """The picture beside a card, and in the work directory that it is made from."""
    return 'detections.png' if task == 'object-detection' else 'samples.png'


def _picture(card: Card) -> str:
    name = picture_of(card.task)
    return name if (card.folder / name).is_file() else ''


def _notes(card: Card) -> str:
    """What no field can say, if there is any."""
    path = card.folder / NOTES
    return path.read_text(encoding='utf-8').strip() if path.is_file() else ''


def _facts(card: Card) -> dict[str, str]:
    return {
        'task': TASKS[card.task],
        'data': card.data,
        'norm': card.norm and f'`{card.norm}`',
        'batch size per device': card.batch,
        'devices': card.devices,
        'gradient accumulation steps': card.accumulated,
        'schedule': card.training,
        'seeds': ', '.join(map(str, card.seeds)),
        'pixels': card.preprocessing,
        'memory': card.memory and f'{card.memory:g} GB',
        'config': card.config and f'`{card.config}`',
        'precision': 'half (vectors: single)' if card.half else '',
        'weights': _weights(card),
        'paper': card.paper,
        'source': card.source,
    }


def _weights(card: Card) -> str:
    if not card.weights:
        return ''
    digits = f'sha256 `{card.sha256}`' if card.sha256 else 'no sha256 published'
    if 0 < len(card.sha256) < 64:
        digits += f' ({len(card.sha256)} of its digits are published)'
    return f'{card.weights}, {digits}'


def _licence(card: Card) -> str:
    if card.license == 'unknown':
        return 'Not stated for these weights; ask at the source.'
    return card.license
