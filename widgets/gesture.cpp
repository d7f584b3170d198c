#include "gesture.h"
