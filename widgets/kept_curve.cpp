#include "kept_curve.h"
