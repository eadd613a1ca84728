"""Trains the head of the default classifier: `make train-moderation DATA=<folder>`.

    data       the files of the folder and our handwritten texts, as labelled examples
    reading    examples as the runtime sees them: normalised, cut into windows, encoded
    fitting    a head's arrays from read examples (scikit-learn's support vector machines)
    folds      which examples are left out together
    rehearsal  cross-validation: every example judged by a head that never saw it
    blend      the plain model that the head is measured against
    quality    what is measured, and whether a difference is more than chance
    calibration margins into probabilities, and thresholds for them

Deterministic: the same files give the same head, on the same machine to the bit. Needs chatmesh[training].
"""
