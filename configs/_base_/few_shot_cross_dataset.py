"""Trained on one dataset, tested on others: after ``few_shot``.

``-o 'targets={"pets": "FOLDER_OR_SPLIT_FILE"}'`` adds a dataset with classes of its own,
``-o 'domains={"sketch": "FOLDER"}'`` one with other images of (some of) the trained classes.  By default
these are the datasets of CoCoOp; ``-o targets.sun=None`` leaves one out, and
``-o 'targets={"_delete_": True, "pets": "FOLDER"}'`` all of them.
"""

from clipdense.data.classification.few_shot import FewShotImages
from clipdense.engine.hooks import EvaluationHook
from clipdense.evaluation.base_to_new import ClassifierAccuracy

data = 'data/imagenet/images'
targets = dict(
    caltech='data/caltech-101/split_zhou_Caltech101.json',
    pets='data/oxford_pets/split_zhou_OxfordPets.json',
    cars='data/stanford_cars/split_zhou_StanfordCars.json',
    flowers='data/oxford_flowers/split_zhou_OxfordFlowers.json',
    food='data/food-101/split_zhou_Food101.json',
    sun='data/sun397/split_zhou_SUN397.json',
    dtd='data/dtd/split_zhou_DescribableTextures.json',
    eurosat='data/eurosat/split_zhou_EuroSAT.json',
    ucf='data/ucf101/split_zhou_UCF101.json',
)
domains = dict(
    v2='data/imagenetv2/imagenetv2-matched-frequency-format-val',
    sketch='data/imagenet-sketch/images',
    adversarial='data/imagenet-adversarial/imagenet-a',
    rendition='data/imagenet-rendition/imagenet-r',
)
custom_hooks = dict(
    evaluation=dict(
        type=EvaluationHook,
        evaluations=dict(
            source=dict(
                type=ClassifierAccuracy,
                parts=dict(source=dict(type=FewShotImages, data='{{data}}', split='test')),
                name='source',
            ),
            targets=dict(type=ClassifierAccuracy, parts='{{targets}}', name='targets'),
            domains=dict(type=ClassifierAccuracy, parts='{{domains}}', name='domains', same_classes=True),
        ),
    ),
)
