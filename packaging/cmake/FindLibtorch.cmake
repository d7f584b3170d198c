# FindLibtorch: PyPI's torch wheel, unpacked, without Python.
#
# find_package(Torch) from the wheel insists on a CUDA toolkit and sets global flags; a CPU build needs two libraries and two
# include folders. Looks in LIBTORCH_ROOT (variable or environment: the folder that holds torch/ and nvidia/), then in the user's
# cache folder where packaging/run.sh unpacks it.
#
# Defines the imported target Libtorch::cpu. With ESPALIER_WITH_CUDA it links the CUDA half of the same wheel too, if the copy found has
# one (`packaging/setup.sh --cuda`); Libtorch_CUDA_LIBRARY says so.
set(_hints ${LIBTORCH_ROOT} $ENV{LIBTORCH_ROOT})
set(_variants cpu)
if(ESPALIER_WITH_CUDA)
    set(_variants cuda cpu)
endif()
foreach(_variant ${_variants})
    if(DEFINED ENV{XDG_CACHE_HOME})
        list(APPEND _hints $ENV{XDG_CACHE_HOME}/espalier/libtorch-2.15.0-${_variant})
    endif()
    list(APPEND _hints $ENV{HOME}/.cache/espalier/libtorch-2.15.0-${_variant})
endforeach()

find_path(Libtorch_INCLUDE_DIR ATen/ATen.h HINTS ${_hints} PATH_SUFFIXES torch/include NO_DEFAULT_PATH)
find_library(Libtorch_CPU_LIBRARY torch_cpu HINTS ${_hints} PATH_SUFFIXES torch/lib NO_DEFAULT_PATH)
find_library(Libtorch_C10_LIBRARY c10 HINTS ${_hints} PATH_SUFFIXES torch/lib NO_DEFAULT_PATH)
find_library(Libtorch_GOMP_LIBRARY NAMES libgomp.so.1 HINTS ${_hints} PATH_SUFFIXES torch/lib NO_DEFAULT_PATH)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Libtorch
    REQUIRED_VARS Libtorch_CPU_LIBRARY Libtorch_C10_LIBRARY Libtorch_GOMP_LIBRARY Libtorch_INCLUDE_DIR
    REASON_FAILURE_MESSAGE "run packaging/setup.sh, or set LIBTORCH_ROOT to the folder that holds torch/ and nvidia/")

if(Libtorch_FOUND AND NOT TARGET Libtorch::cpu)
    get_filename_component(_libdir ${Libtorch_CPU_LIBRARY} DIRECTORY)
    get_filename_component(_root ${_libdir}/../.. ABSOLUTE)
    file(GLOB _nvidia_libs ${_root}/nvidia/*/lib)
    add_library(Libtorch::c10 SHARED IMPORTED)
    set_target_properties(Libtorch::c10 PROPERTIES IMPORTED_LOCATION ${Libtorch_C10_LIBRARY})
    add_library(Libtorch::gomp SHARED IMPORTED)
    set_target_properties(Libtorch::gomp PROPERTIES IMPORTED_LOCATION ${Libtorch_GOMP_LIBRARY})
    add_library(Libtorch::cpu SHARED IMPORTED)
    set_target_properties(Libtorch::cpu PROPERTIES
        IMPORTED_LOCATION ${Libtorch_CPU_LIBRARY}
        INTERFACE_LINK_LIBRARIES "Libtorch::c10;Libtorch::gomp"
        # at::parallel_for is a template: without this it compiles to a plain loop. The runtime is the wheel's own, so that the
        # process has one pool of threads.
        INTERFACE_COMPILE_OPTIONS -fopenmp
        # The wheel brings headers of a newer {fmt} than the system's, without the library: where they are found first they must
        # carry their code with them.
        INTERFACE_COMPILE_DEFINITIONS FMT_HEADER_ONLY=1
        INTERFACE_INCLUDE_DIRECTORIES "${Libtorch_INCLUDE_DIR};${Libtorch_INCLUDE_DIR}/torch/csrc/api/include"
        INTERFACE_SYSTEM_INCLUDE_DIRECTORIES "${Libtorch_INCLUDE_DIR};${Libtorch_INCLUDE_DIR}/torch/csrc/api/include")
    # libtorch_cpu needs libcudart and libcupti at link time although nothing here calls them.
    foreach(_dir ${_libdir} ${_nvidia_libs})
        set_property(TARGET Libtorch::cpu APPEND PROPERTY INTERFACE_LINK_OPTIONS "LINKER:-rpath-link,${_dir}")
    endforeach()
endif()
# The CUDA half registers itself when it is loaded; nothing names a symbol of it. It needs no driver to load.
if(Libtorch_FOUND AND ESPALIER_WITH_CUDA)
    get_filename_component(_libdir ${Libtorch_CPU_LIBRARY} DIRECTORY)
    find_library(Libtorch_CUDA_LIBRARY torch_cuda HINTS ${_libdir} NO_DEFAULT_PATH)
    if(Libtorch_CUDA_LIBRARY)
        set_property(TARGET Libtorch::cpu APPEND PROPERTY INTERFACE_LINK_OPTIONS
            "LINKER:--push-state,--no-as-needed,${Libtorch_CUDA_LIBRARY},--pop-state")
    else()
        message(WARNING "This copy of libtorch has no CUDA half: kernels of the search are built, the model runs on the processor only. "
                        "`packaging/setup.sh --cuda` fetches it.")
    endif()
    mark_as_advanced(Libtorch_CUDA_LIBRARY)
endif()
mark_as_advanced(Libtorch_INCLUDE_DIR Libtorch_CPU_LIBRARY Libtorch_C10_LIBRARY Libtorch_GOMP_LIBRARY)
