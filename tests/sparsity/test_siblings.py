import keras

from keras_aeprune.sparsity.siblings import put_last


class Recorder(keras.callbacks.Callback):
    """A member of the list that calls `put_last`, with a target that the test opens."""

    def __init__(self):
        super().__init__()
        self.at_target = False

    def set_model(self, model):
        super().set_model(model)
        put_last(self)


class Judge(keras.callbacks.Callback):
    save_best_only = True

    def __init__(self):
        super().__init__()
        self.calls = []

    def on_epoch_begin(self, epoch, logs=None):
        self.calls.append(("begin", epoch))

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append(("end", epoch))

    def on_train_end(self, logs=None):
        self.calls.append(("over", self.model is not None))


def test_the_member_is_last_and_judges_see_epochs_only_at_the_target():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    member, judge, plain = Recorder(), Judge(), keras.callbacks.Callback()
    owner = keras.callbacks.CallbackList([member, judge, plain], add_history=True, model=model, epochs=2)
    assert owner.callbacks[-1] is member
    assert plain in owner.callbacks
    owner.on_train_begin()
    for epoch in range(2):
        owner.on_epoch_begin(epoch)
        member.at_target = epoch == 1
        owner.on_epoch_end(epoch)
    owner.on_train_end()
    assert judge.calls == [("begin", 0), ("begin", 1), ("end", 1), ("over", True)]
    assert judge.params["epochs"] == 2


def test_a_callback_list_of_an_own_class_is_found():
    class Own(keras.callbacks.CallbackList):
        def set_model(self, model):
            super().set_model(model)

    member, other = Recorder(), keras.callbacks.Callback()
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    assert Own([member, other], model=model).callbacks == [other, member]


def test_without_a_list_nothing_happens():
    member = Recorder()
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    member.set_model(model)
    assert member.model is model
