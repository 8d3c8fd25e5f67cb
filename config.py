"""Your settings.  What is not set here, the compact models of the package fill.

storyteller reads this file when it is started in this folder; another one is named by the
environment variable STORYTELLER_CONFIG or by generate.load_all(config='FILE').  Relative paths
count from the file's own folder.  `storyteller check` tells what is found and what is missing.
"""

# False: compute on a GPU where one is usable.
FLAG_CPU_MODE = True

paths = dict()

# Skip-thoughts: folders of uni_skip.npz, bi_skip.npz (+ .pkl) and of dictionary.txt, utable.npy,
# btable.npy
# paths['skmodels'] = 'models/'
# paths['sktables'] = 'models/'

# Decoder and its dictionary
# paths['decmodel'] = 'models/romance.npz'
# paths['dictionary'] = 'models/romance_dictionary.pkl'

# Image-sentence embedding (+ .pkl and .dictionary.pkl)
# paths['vsemodel'] = 'models/coco_embedding.npz'

# Convnet. VGG-19: Lasagne's vgg19.pkl, the .caffemodel, torchvision's .pth or Keras's .h5
# paths['vgg'] = 'models/vgg19.pkl'

# Captions to retrieve from, one a line
# paths['captions'] = 'models/coco_train_caps.txt'

# Caption style (taken away) and book style (given)
# paths['negbias'] = 'models/caption_style.npy'
# paths['posbias'] = 'models/romance_style.npy'
