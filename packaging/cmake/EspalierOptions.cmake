# Options, and the one interface target that every target of ours links for language level, warnings and sanitizers.
option(ESPALIER_WITH_GUI "Build the window (Qt 6, QCustomPlot)" ON)
option(ESPALIER_WITH_ENGINE "Build the engine (libtorch)" ON)
option(ESPALIER_WITH_CUDA "Build CUDA kernels (nvcc)" OFF)
option(ESPALIER_WITH_MPI "Let the processes of one mpirun share the work of a verb" OFF)
option(ESPALIER_BUILD_TESTS "Build the tests" ON)
option(ESPALIER_INCLUDE_ROOTS "A target sees the headers of the folders of core that it links, and no others" OFF)
option(ESPALIER_WERROR "Warnings of our own code are errors" OFF)
set(ESPALIER_SANITIZE "" CACHE STRING "Sanitizers, e.g. address,undefined or thread")

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
    set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM)
    set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()
# Linking the engine or compiling against ATen takes up to 2 GB: at most two at a time.
set_property(GLOBAL APPEND PROPERTY JOB_POOLS heavy=2)

set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
# moc of Qt 6.4 cannot read <concepts> of libstdc++ and needs nothing of it: it is given the guard of that header.
set(CMAKE_AUTOMOC_MOC_OPTIONS -D_GLIBCXX_CONCEPTS=1)

add_library(espalier_options INTERFACE)
add_library(espalier::options ALIAS espalier_options)
target_compile_features(espalier_options INTERFACE cxx_std_20)
set(not_cuda $<NOT:$<COMPILE_LANGUAGE:CUDA>>)
target_compile_options(espalier_options INTERFACE
    "$<${not_cuda}:-Wall;-Wextra;-Wnon-virtual-dtor;-Woverloaded-virtual>"
    $<$<AND:${not_cuda},$<BOOL:${ESPALIER_WERROR}>>:-Werror>)
target_compile_definitions(espalier_options INTERFACE ESPALIER_VERSION="${PROJECT_VERSION}")
if(ESPALIER_SANITIZE)
    # GCC sees uninitialised values where its own instrumentation hides the assignment.
    target_compile_options(espalier_options INTERFACE
        "$<${not_cuda}:-fsanitize=${ESPALIER_SANITIZE};-fno-omit-frame-pointer;-Wno-maybe-uninitialized>")
    target_link_options(espalier_options INTERFACE -fsanitize=${ESPALIER_SANITIZE})
endif()

# nvcc need not be on the path. cudart is linked statically and looks for the driver when it is first called, so that programs start on
# machines without one.
if(ESPALIER_WITH_CUDA)
    find_package(CUDAToolkit REQUIRED)
    if(NOT DEFINED CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
        set(CMAKE_CUDA_COMPILER ${CUDAToolkit_NVCC_EXECUTABLE})
    endif()
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES AND NOT DEFINED ENV{CUDAARCHS})
        set(CMAKE_CUDA_ARCHITECTURES 80 90 CACHE STRING "Devices to compile for; newer ones compile the newest at their first start")
    endif()
    enable_language(CUDA)
    set(CMAKE_CUDA_EXTENSIONS OFF)
    set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
    if(CCACHE_PROGRAM)
        set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
    endif()
    target_compile_options(espalier_options INTERFACE
        $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>
        $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${ESPALIER_WERROR}>>:--Werror=all-warnings>)
endif()

# espalier_library(<name> SOURCES ... [PUBLIC libs...] [PRIVATE libs...])
# A static library espalier_<name> with the alias espalier::<name>, headers included as "<folder>/<file>.h" from core/ or widgets/.
# With ESPALIER_INCLUDE_ROOTS a folder of core is found through a root of its own, a folder of the build that holds a link to it alone, and
# who does not link the library does not have the root.
function(espalier_library name)
    cmake_parse_arguments(ARG "" "" "SOURCES;PUBLIC;PRIVATE" ${ARGN})
    add_library(espalier_${name} STATIC ${ARG_SOURCES})
    add_library(espalier::${name} ALIAS espalier_${name})
    file(RELATIVE_PATH folder ${PROJECT_SOURCE_DIR}/core ${CMAKE_CURRENT_SOURCE_DIR})
    if(NOT ESPALIER_INCLUDE_ROOTS)
        target_include_directories(espalier_${name} PUBLIC ${PROJECT_SOURCE_DIR}/core)
    elseif(NOT folder MATCHES "^\\.\\.")
        file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/include-roots/${folder})
        file(CREATE_LINK ${CMAKE_CURRENT_SOURCE_DIR} ${PROJECT_BINARY_DIR}/include-roots/${folder}/${folder} SYMBOLIC)
        target_include_directories(espalier_${name} PUBLIC ${PROJECT_BINARY_DIR}/include-roots/${folder})
    endif()
    target_link_libraries(espalier_${name} PUBLIC ${ARG_PUBLIC} PRIVATE espalier::options ${ARG_PRIVATE})
endfunction()

add_feature_info(window ESPALIER_WITH_GUI "espalier, the desktop application (Qt 6, QCustomPlot)")
add_feature_info(engine ESPALIER_WITH_ENGINE "espalier-engine (libtorch)")
option(ESPALIER_WITH_CUDA "Build CUDA kernels (nvcc)" OFF)
option(ESPALIER_WITH_MPI "Let the processes of one mpirun share the work of a verb" OFF)
add_feature_info(tests ESPALIER_BUILD_TESTS "GoogleTest, Qt Test, command line tests")
